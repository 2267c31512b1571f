"""The U-Net of Dhariwal & Nichol (2021), also with the spatial transformers of Rombach et al. (2022).

Shapes: B batch, C channels, H W positions, L = H·W, D width of the context.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def time_features(t: Tensor, width: int) -> Tensor:
    """Times [B] -> cosines, then sines, [B, width]."""
    half = width // 2
    frequencies = 10000 ** -(torch.arange(half, dtype=torch.float32) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention: [B, heads, L, d], [B, heads, M, d] twice -> [B, heads, L, d]."""
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


class ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, emb: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, c_out), nn.SiLU(), nn.Dropout(0), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class AttentionBlock(nn.Module):
    """Self-attention; the joint projection's rows are ordered by head, and within one by queries, keys, values."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        b, c, height, width = x.shape
        rows = self.qkv(self.norm(x).flatten(2))  # [B, 3C, L]
        per_head = rows.reshape(b, self.heads, 3, c // self.heads, height * width)
        q, k, v = per_head.mT.unbind(2)  # [B, heads, L, C / heads]
        h = attend(q, k, v).mT.reshape(b, c, height * width)
        return x + self.proj_out(h).view_as(x)


class CrossAttention(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            rows.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for rows in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(attend(q, k, v).transpose(1, 2).flatten(2))


class GatedGelu(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.proj = nn.Linear(c_in, 2 * c_out)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * functional.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedGelu(width, 4 * width), nn.Dropout(0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.attn1 = CrossAttention(width, width, heads)
        self.ff = FeedForward(width)
        self.attn2 = CrossAttention(width, context, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.norm1(x)
        x = x + self.attn1(h, h)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, channels: int, context: int, heads: int, depth: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(channels, context, heads) for _ in range(depth))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        assert context is not None
        h = self.proj_in(self.norm(x))
        rows = h.flatten(2).mT  # [B, L, C]
        for block in self.transformer_blocks:
            rows = block(rows, context)
        return x + self.proj_out(rows.mT.reshape(h.shape))


class Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        return self.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


class Stem(nn.Conv2d):
    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class UNet(nn.Module):
    """Built from the config's `unet_config.params`."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        self.width = width = params["model_channels"]
        emb, depth, factors = 4 * width, params["num_res_blocks"], params["channel_mult"]
        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))

        def attention(channels: int) -> nn.Module:
            heads = params["num_heads"] if "num_heads" in params else channels // params["num_head_channels"]
            if params.get("use_spatial_transformer"):
                return SpatialTransformer(channels, params["context_dim"], heads, params["transformer_depth"])
            return AttentionBlock(channels, heads)

        channels = width
        self.input_blocks = nn.ModuleList([nn.ModuleList([Stem(params["in_channels"], width, 3, padding=1)])])
        skips = [channels]
        for level, factor in enumerate(factors):
            attended = 2**level in params["attention_resolutions"]
            for _ in range(depth):
                layers = [ResidualBlock(channels, factor * width, emb)]
                channels = factor * width
                self.input_blocks.append(nn.ModuleList(layers + [attention(channels)] * attended))
                skips.append(channels)
            if level < len(factors) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels)]))
                skips.append(channels)
        self.middle_block = nn.ModuleList(
            [ResidualBlock(channels, channels, emb), attention(channels), ResidualBlock(channels, channels, emb)]
        )
        self.output_blocks = nn.ModuleList()
        for level, factor in reversed([*enumerate(factors)]):
            attended = 2**level in params["attention_resolutions"]
            for i in range(depth + 1):
                layers = [ResidualBlock(channels + skips.pop(), factor * width, emb)]
                channels = factor * width
                grows = level > 0 and i == depth
                self.output_blocks.append(
                    nn.ModuleList(layers + [attention(channels)] * attended + [Upsample(channels)] * grows)
                )
        self.out = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, params["out_channels"], 3, padding=1)
        )

    def forward(self, z: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        """z [B, C, H, W] at times t [B], with a context [B, M, D] if it has transformers -> ε̂ [B, C, H, W]."""
        emb = self.time_embed(time_features(t, self.width))
        skips = []
        for layers in self.input_blocks:
            for layer in layers:
                z = layer(z, emb, context)
            skips.append(z)
        for layer in self.middle_block:
            z = layer(z, emb, context)
        for layers in self.output_blocks:
            z = torch.cat([z, skips.pop()], dim=1)
            for layer in layers:
                z = layer(z, emb, context)
        return self.out(z)
