"""The VQ autoencoder of Esser et al. (2021) without attention but in the middle, as CompVis' `VQModelInterface`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = norm(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttnBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))  # [B, C, L]
        weights = (q.mT @ k / math.sqrt(x.shape[1])).softmax(-1)  # [B, L, L]
        return x + self.proj_out((v @ weights.mT).view_as(x))


class Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1, self.attn_1 = ResnetBlock(channels, channels), AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Conv(nn.Module):
    """The layer of a level's end: half the size, with a zero row and column after the last, or twice the size."""

    def __init__(self, channels: int, down: bool) -> None:
        super().__init__()
        self.down = down
        self.conv = nn.Conv2d(channels, channels, 3, stride=2 if down else 1, padding=0 if down else 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            return self.conv(functional.pad(x, (0, 1, 0, 1)))
        return self.conv(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))


def level(c_in: int, c_out: int, depth: int) -> nn.Module:
    blocks = (ResnetBlock(c_in if i == 0 else c_out, c_out) for i in range(depth))
    return nn.ModuleDict({"block": nn.ModuleList(blocks)})


class Encoder(nn.Module):
    def __init__(self, p: Mapping[str, Any]) -> None:
        super().__init__()
        widths = [p["ch"], *(p["ch"] * factor for factor in p["ch_mult"])]
        self.conv_in = nn.Conv2d(p["in_channels"], p["ch"], 3, padding=1)
        self.down = nn.ModuleList(level(a, b, p["num_res_blocks"]) for a, b in pairwise(widths))
        for here, width in zip(self.down[:-1], widths[1:], strict=False):
            here["downsample"] = Conv(width, down=True)
        self.mid = Middle(widths[-1])
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], p["z_channels"], 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for here in self.down:
            for block in here["block"]:
                h = block(h)
            h = here["downsample"](h) if "downsample" in here else h
        return self.conv_out(functional.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    def __init__(self, p: Mapping[str, Any]) -> None:
        super().__init__()
        widths = [p["ch"] * factor for factor in p["ch_mult"]]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(p["z_channels"], widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        # Level 0 is the finest and the last to be computed.
        self.up = nn.ModuleList(
            level(widths[min(i + 1, last)], width, p["num_res_blocks"] + 1) for i, width in enumerate(widths)
        )
        for here, width in zip(self.up[1:], widths[1:], strict=True):
            here["upsample"] = Conv(width, down=False)
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], p["out_ch"], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.mid(self.conv_in(z))
        for here in reversed(self.up):
            for block in here["block"]:
                h = block(h)
            h = here["upsample"](h) if "upsample" in here else h
        return self.conv_out(functional.silu(self.norm_out(h)))


class Codebook(nn.Module):
    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(entries, width)

    def forward(self, z: Tensor) -> Tensor:
        """Each position's nearest entry, [B, D, H, W]."""
        rows = z.movedim(1, -1)  # [B, H, W, D]
        distances = (rows[..., None, :] - self.embedding.weight).square().sum(-1)
        return self.embedding(distances.argmin(-1)).movedim(-1, 1)


class VqAutoencoder(nn.Module):
    """Built from the config's `first_stage_config.params`."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        super().__init__()
        z, d = params["ddconfig"]["z_channels"], params["embed_dim"]
        self.encoder, self.decoder = Encoder(params["ddconfig"]), Decoder(params["ddconfig"])
        self.quantize = Codebook(params["n_embed"], d)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(z, d, 1), nn.Conv2d(d, z, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [−1, 1] -> latents before they are quantised, [B, D, H / f, W / f]."""
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor) -> Tensor:
        """Latents, which are quantised first, -> images."""
        return self.decoder(self.post_quant_conv(self.quantize(z)))
