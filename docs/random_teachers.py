"""Pipelines with random weights, of the sizes that people distil: what benchmarks and proofs of configs run on.

`python docs/random_teachers.py ldm FOLDER`
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LDMPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from distillkit_diffusers.export import save
from distillkit_diffusers.pipelines import class_conditional, class_embedder
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


def ldm(folder: Path) -> None:
    """CelebA-HQ's and LSUN Bedroom's (Rombach et al. 2022): 274.06 M parameters on latents of 3×64×64."""
    unet = UNet2DModel(
        sample_size=64,
        in_channels=3,
        out_channels=3,
        block_out_channels=(224, 448, 672, 896),
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * 3),
        up_block_types=(*["AttnUpBlock2D"] * 3, "UpBlock2D"),
        attention_head_dim=32,
    )
    LDMPipeline(_vq_f4(), unet, _scheduler()).save_pretrained(folder)


def cin256(folder: Path) -> None:
    """Class-conditional ImageNet's, cin256-v2: 400.92 M parameters on latents of 3×64×64."""
    unet = UNet2DConditionModel(
        sample_size=64,
        in_channels=3,
        out_channels=3,
        block_out_channels=(192, 384, 576, 960),
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
        up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
        cross_attention_dim=512,
        attention_head_dim=1,
    )
    embedder = class_embedder.ClassEmbedder(1001, 512)
    pipeline = class_conditional.ClassLatentPipeline(_vq_f4(), unet, embedder, _scheduler(), null_class=1000)
    save(pipeline, folder, "Random weights.\n")


def sd15(folder: Path) -> None:
    """Stable Diffusion 1.5's: 859.52 M parameters on latents of 4×64×64, texts encoded by CLIP ViT-L/14.

    The tokenizer knows letters alone.
    """
    words = [*ascii_lowercase, *(f"{letter}</w>" for letter in ascii_lowercase), "<|startoftext|>", "<|endoftext|>"]
    tokens = {word: i for i, word in enumerate(words)}
    encoder = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_attention_heads=12,
        num_hidden_layers=12,
        bos_token_id=tokens["<|startoftext|>"],
        eos_token_id=tokens["<|endoftext|>"],
        pad_token_id=tokens["<|endoftext|>"],
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=CLIPTextModel(encoder),
        tokenizer=CLIPTokenizer(vocab=tokens, merges=[], model_max_length=77),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            steps_offset=1,
            set_alpha_to_one=False,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


TEACHERS: dict[str, Callable[[Path], None]] = {"ldm": ldm, "cin256": cin256, "sd15": sd15}


def _vq_f4() -> Any:
    return VQModel(
        block_out_channels=(128, 256, 512),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=2,
        latent_channels=3,
        num_vq_embeddings=8192,
        sample_size=256,
        scaling_factor=1.0,
    )


def _scheduler() -> Any:
    """The times of latent diffusion, as CompVis samples them."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    TEACHERS[sys.argv[1]](Path(sys.argv[2]))
