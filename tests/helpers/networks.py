"""Tiny networks and autoencoders with random weights, and folders of pipelines as diffusers saves them."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTTransformer2DModel,
    LDMPipeline,
    PNDMScheduler,
    UNet2DModel,
    VQModel,
)

from distillkit.sampling import noise_for
from helpers.digits import PLAIN

LDM = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
"""The noise schedule of latent diffusion."""


def unet(**options: Any) -> UNet2DModel:
    """A tiny unconditional U-Net for samples of 3×8×8, always with the same random weights."""
    arguments: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    torch.manual_seed(0)
    return UNet2DModel(**(arguments | options))


def pixel_unet(**options: Any) -> UNet2DModel:
    """The same for samples of 1×8×8."""
    return unet(**({"in_channels": 1, "out_channels": 1} | options))


def tables(path: Path, more: str = "") -> str:
    return f'[model]\ntype = "diffusers"\npath = "{path}"\n{more}\n{PLAIN}'


def ddpm_pipeline(folder: Path) -> None:
    DDPMPipeline(pixel_unet(), DDPMScheduler(**LDM, variance_type="fixed_small", clip_sample=False)).save_pretrained(
        folder
    )


def ddim_pipeline(folder: Path, **options: Any) -> None:
    DDIMPipeline(
        pixel_unet(**options), DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    ).save_pretrained(folder)


def pndm_class_conditional(folder: Path) -> None:
    """No stock pipeline takes it: the parts are saved one by one. No null class."""
    pixel_unet(num_class_embeds=10).save_pretrained(folder / "unet")
    PNDMScheduler(**LDM, skip_prk_steps=True).save_pretrained(folder / "scheduler")


def half_precision(folder: Path) -> None:
    DDPMPipeline(pixel_unet().half(), DDPMScheduler(clip_sample=False)).save_pretrained(folder, variant="fp16")


def sharded(folder: Path) -> None:
    DDPMPipeline(pixel_unet(), DDPMScheduler(clip_sample=False)).save_pretrained(folder, max_shard_size="50KB")
    assert (folder / "unet/diffusion_pytorch_model.safetensors.index.json").is_file()


def oblong(folder: Path) -> None:
    DDPMPipeline(pixel_unet(sample_size=(8, 16)), DDPMScheduler(clip_sample=False)).save_pretrained(folder)


def dit(**options: Any) -> DiTTransformer2DModel:
    arguments = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": 8, "patch_size": 2}
    torch.manual_seed(0)
    return DiTTransformer2DModel(**(arguments | {"in_channels": 4, "out_channels": 8} | options))


def kl_autoencoder(**options: Any) -> AutoencoderKL:
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    torch.manual_seed(1)
    return AutoencoderKL(**(blocks | {"block_out_channels": [8, 8], "norm_num_groups": 4} | options))


def ddim_scheduler(**options: Any) -> DDIMScheduler:
    trailing = {"timestep_spacing": "trailing", "clip_sample": False}
    return DDIMScheduler(**(trailing | options))


NOISE = noise_for(0, range(3), (3, 8, 8))


def vq_autoencoder(**options: Any) -> VQModel:
    """A tiny one, from 16×16 pictures to latents of 3×8×8."""
    arguments: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "num_vq_embeddings": 64,
        "scaling_factor": 1.0,
    }
    torch.manual_seed(1)
    made = VQModel(**(arguments | options))
    # Codes as far apart as latents are; diffusers draws them within ±1/64.
    torch.nn.init.normal_(made.quantize.embedding.weight)
    return made


def latent_pipeline(folder: Path, vqvae: VQModel | None = None, **scheduler: Any) -> Path:
    """A teacher's folder, and that of LDMPipeline's own grid."""
    steps = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}
    made = LDMPipeline(vqvae or vq_autoencoder(), unet(), DDIMScheduler(**(LDM | steps | scheduler)))
    made.save_pretrained(folder)
    return folder


def live_bytes() -> int:
    """The bytes of all tensors that are alive on the CPU, each storage counted once."""
    gc.collect()
    found = [value for value in gc.get_objects() if issubclass(type(value), torch.Tensor)]
    grads = [value.grad for value in found if value.is_leaf and value.grad is not None]
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in (*found, *grads)}
    return sum(storages.values())
