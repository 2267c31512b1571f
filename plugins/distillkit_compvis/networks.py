"""diffusers' networks for CompVis' configs, and the names of their weights in CompVis' networks."""

from __future__ import annotations

import diffusers
import torch

from distillkit_compvis.config import Unet, Vq
from distillkit_compvis.weights import Naming

RESIDUAL_BLOCK = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
ATTENTION_BLOCK = {"group_norm.": "norm.", "to_out.0.": "proj_out."}


def build_unet(params: Unet) -> torch.nn.Module:
    """Build diffusers' U-Net on the "meta" device."""
    attended = [2**level in params.attention_resolutions for level in range(len(params.channel_mult))]
    attention = "CrossAttn" if params.use_spatial_transformer else "Attn"
    common = {
        "sample_size": params.image_size,
        "in_channels": params.in_channels,
        "out_channels": params.out_channels,
        "block_out_channels": [factor * params.model_channels for factor in params.channel_mult],
        "layers_per_block": params.num_res_blocks,
        "down_block_types": [f"{attention if here else ''}DownBlock2D" for here in attended],
        "up_block_types": [f"{attention if here else ''}UpBlock2D" for here in reversed(attended)],
        "dropout": params.dropout,
    }
    with torch.device("meta"):
        if not params.use_spatial_transformer:
            made: torch.nn.Module = diffusers.UNet2DModel(**common, attention_head_dim=params.num_head_channels)
        else:
            # Despite its name, the argument is the number of heads here (diffusers #2011).
            made = diffusers.UNet2DConditionModel(
                **common,
                attention_head_dim=_heads(params),
                cross_attention_dim=params.context_dim,
                transformer_layers_per_block=params.transformer_depth,
            )
    return made


def unet_naming(params: Unet) -> Naming:
    """Maps the names of diffusers' weights to CompVis'."""
    levels, depth = len(params.channel_mult), params.num_res_blocks
    blocks = {
        "time_embedding.linear_1.": "time_embed.0.",
        "time_embedding.linear_2.": "time_embed.2.",
        "conv_in.": "input_blocks.0.0.",
        "mid_block.resnets.0.": "middle_block.0.",
        "mid_block.attentions.0.": "middle_block.1.",
        "mid_block.resnets.1.": "middle_block.2.",
        "conv_norm_out.": "out.0.",
        "conv_out.": "out.2.",
    }
    for level in range(levels):
        for i in range(depth):
            number = 1 + level * (depth + 1) + i
            blocks[f"down_blocks.{level}.resnets.{i}."] = f"input_blocks.{number}.0."
            blocks[f"down_blocks.{level}.attentions.{i}."] = f"input_blocks.{number}.1."
        blocks[f"down_blocks.{level}.downsamplers.0.conv."] = f"input_blocks.{(level + 1) * (depth + 1)}.0.op."
        # Upwards level 0 is the coarsest. The last block of a level contains its upsampler.
        for i in range(depth + 1):
            number = level * (depth + 1) + i
            blocks[f"up_blocks.{level}.resnets.{i}."] = f"output_blocks.{number}.0."
            blocks[f"up_blocks.{level}.attentions.{i}."] = f"output_blocks.{number}.1."
        place = 2 if 2 ** (levels - 1 - level) in params.attention_resolutions else 1
        blocks[f"up_blocks.{level}.upsamplers.0.conv."] = f"output_blocks.{number}.{place}.conv."
    if params.use_spatial_transformer:
        return Naming(blocks, RESIDUAL_BLOCK)  # names inside a spatial transformer are the same in both
    return Naming(blocks, RESIDUAL_BLOCK | ATTENTION_BLOCK, joined="qkv.", head=params.num_head_channels)


def _heads(params: Unet) -> int | list[int] | None:
    """The number of heads of spatial transformers, for each level if they differ."""
    if params.num_head_channels is None:
        return params.num_heads
    return [factor * params.model_channels // params.num_head_channels for factor in params.channel_mult]


AUTOENCODER_BLOCK = {
    "conv_shortcut.": "nin_shortcut.",
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
}


def build_autoencoder(params: Vq, scale_factor: float) -> torch.nn.Module:
    """Build diffusers' autoencoder on the "meta" device.

    Args:
        params: the autoencoder's.
        scale_factor: the factor by which latents are multiplied. It is always set, as diffusers' default is that of
            Stable Diffusion (diffusers #6725).
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


def autoencoder_naming(params: Vq) -> Naming:
    """Maps the names of diffusers' weights to CompVis'."""
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
        # CompVis counts levels from the finest in both directions, diffusers in the order of computation.
        there = levels - 1 - level
        for i in range(depth + 1):
            blocks[f"encoder.down_blocks.{level}.resnets.{i}."] = f"encoder.down.{level}.block.{i}."
            blocks[f"decoder.up_blocks.{level}.resnets.{i}."] = f"decoder.up.{there}.block.{i}."
        blocks[f"encoder.down_blocks.{level}.downsamplers.0."] = f"encoder.down.{level}.downsample."
        blocks[f"decoder.up_blocks.{level}.upsamplers.0."] = f"decoder.up.{there}.upsample."
    return Naming(blocks, AUTOENCODER_BLOCK)
