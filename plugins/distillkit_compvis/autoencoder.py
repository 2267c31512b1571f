"""CompVis' `VQModelInterface` as diffusers' `VQModel`."""

from __future__ import annotations

import diffusers
import torch

from distillkit_compvis.config import Vq
from distillkit_compvis.naming import Naming

INSIDE = {
    "conv_shortcut.": "nin_shortcut.",
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
}


def build(params: Vq, scale_factor: float) -> torch.nn.Module:
    """diffusers' network without weights, on the "meta" device.

    Args:
        params: the config's.
        scale_factor: what latents are multiplied by before they are diffused. It is written out, as diffusers' default
            is that of Stable Diffusion (diffusers #6725).
    """
    networks = params.ddconfig
    levels = len(networks.ch_mult)
    with torch.device("meta"):
        made: torch.nn.Module = diffusers.VQModel(
            in_channels=networks.in_channels,
            out_channels=networks.out_ch,
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            block_out_channels=[factor * networks.ch for factor in networks.ch_mult],
            layers_per_block=networks.num_res_blocks,
            latent_channels=networks.z_channels,
            sample_size=networks.resolution,
            num_vq_embeddings=params.n_embed,
            vq_embed_dim=params.embed_dim,
            scaling_factor=scale_factor,
        )
    return made


def naming(params: Vq) -> Naming:
    """From the names of diffusers' weights to CompVis'."""
    levels, depth = len(params.ddconfig.ch_mult), params.ddconfig.num_res_blocks
    blocks: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        blocks |= {
            f"{side}.mid_block.resnets.0.": f"{side}.mid.block_1.",
            f"{side}.mid_block.attentions.0.": f"{side}.mid.attn_1.",
            f"{side}.mid_block.resnets.1.": f"{side}.mid.block_2.",
            f"{side}.conv_norm_out.": f"{side}.norm_out.",
        }
    for level in range(levels):
        # CompVis counts from the finest resolution on both ways, diffusers in the order of computation.
        there = levels - 1 - level
        for i in range(depth + 1):
            blocks[f"encoder.down_blocks.{level}.resnets.{i}."] = f"encoder.down.{level}.block.{i}."
            blocks[f"decoder.up_blocks.{level}.resnets.{i}."] = f"decoder.up.{there}.block.{i}."
        blocks[f"encoder.down_blocks.{level}.downsamplers.0."] = f"encoder.down.{level}.downsample."
        blocks[f"decoder.up_blocks.{level}.upsamplers.0."] = f"decoder.up.{there}.upsample."
    return Naming(blocks, INSIDE)
