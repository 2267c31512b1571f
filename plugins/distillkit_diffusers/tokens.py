"""Latents as Flux has them: tokens of 2×2. Imports torch.

Shapes: B batch, C channels, h w tokens in height and width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack(latents: Tensor) -> Tensor:
    """Latents [B, C, 2h, 2w] -> tokens [B, h·w, 4C]."""
    return latents.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Tokens [B, h·w, 4C] -> latents [B, C, 2h, 2w]."""
    squares = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height, width))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def places(height: int, width: int, device: torch.device) -> Tensor:
    """Where tokens are: [h·w, 3], of 0, row and column."""
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1).float()
