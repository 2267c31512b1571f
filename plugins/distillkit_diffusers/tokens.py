"""Latents as Flux has them: tokens of 2×2. Imports torch.

Shapes: B batch, C channels, h w tokens in height and width.
"""

from __future__ import annotations

import torch


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Latents [B, C, 2h, 2w] -> tokens [B, h·w, 4C]."""
    batch, channels, height, width = latents.shape
    squares = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, 4 * channels)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tokens [B, h·w, 4C] -> latents [B, C, 2h, 2w]."""
    batch, _, channels = tokens.shape
    squares = tokens.reshape(batch, height, width, channels // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, 2 * height, 2 * width)


def places(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Where tokens are: [h·w, 3], of 0, row and column."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=1).float()
