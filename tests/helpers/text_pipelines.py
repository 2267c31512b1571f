"""Tiny text-conditional pipelines with random weights, made by diffusers and transformers themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

PROMPTS = ("a cat", "the sea", "zebra")
LDM = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LENGTH = 12
"""Tokens of a text."""


def clip_tokenizer() -> CLIPTokenizer:
    """Knows letters, and not much of words."""
    words = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=LENGTH)


def clip_encoder(network_class: Any = CLIPTextModel, width: int = 16) -> Any:
    """For `clip_tokenizer`."""
    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=width,
        intermediate_size=width,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=LENGTH,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
        projection_dim=width,
    )
    return network_class(config)


def autoencoder(**options: Any) -> AutoencoderKL:
    """Of images twice as high and wide as their latents."""
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        **options,
    )


def unet(**options: Any) -> UNet2DConditionModel:
    """On latents of 8×8, told texts of width 16."""
    arguments: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**arguments | options)


def ddim(**options: Any) -> DDIMScheduler:
    """With trailing grids, which are distillkit's own at numbers of steps that divide 1000."""
    own = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 1}
    return DDIMScheduler(**LDM | own | options)


def stable_diffusion(folder: Path, network: Mapping[str, Any] | None = None, **scheduler: Any) -> None:
    """Save a StableDiffusionPipeline; `network` are arguments of its U-Net."""
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=autoencoder(scaling_factor=0.3),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=unet(**network or {}),
        scheduler=ddim(**scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def sdxl(folder: Path, **scheduler: Any) -> None:
    """Save a StableDiffusionXLPipeline."""
    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.3),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8,
        ),
        scheduler=ddim(**scheduler),
    ).save_pretrained(folder)


def t5_tokenizer() -> T5TokenizerFast:
    """Knows letters."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return T5TokenizerFast(vocab=[*special, *((letter, -3.0) for letter in ascii_lowercase)], extra_ids=0)


def t5_encoder() -> T5EncoderModel:
    """For `t5_tokenizer`."""
    return T5EncoderModel(T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=16, num_layers=2, num_heads=2))


def sd3(folder: Path, **scheduler: Any) -> None:
    """Save a StableDiffusion3Pipeline."""
    torch.manual_seed(0)
    StableDiffusion3Pipeline(
        vae=autoencoder(scaling_factor=0.3, shift_factor=0.2),
        text_encoder=clip_encoder(CLIPTextModelWithProjection),
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection),
        text_encoder_3=t5_encoder(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        tokenizer_3=t5_tokenizer(),
        transformer=SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=16,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
    ).save_pretrained(folder)


def flux(folder: Path, guidance_embeds: bool = False, **scheduler: Any) -> None:
    """Save a FluxPipeline."""
    torch.manual_seed(0)
    FluxPipeline(
        vae=autoencoder(scaling_factor=0.3, shift_factor=0.2),
        text_encoder=clip_encoder(),
        text_encoder_2=t5_encoder(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=t5_tokenizer(),
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(**scheduler),
    ).save_pretrained(folder)
