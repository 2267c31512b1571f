"""Deterministic sampling: DDIM along the path's own grid.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from distillkit.noise import Condition, Predictor


@torch.no_grad()
def sample(predictor: Predictor, noise: Tensor, condition: Condition, steps: int) -> Tensor:
    """Walk from noise [B, C, H, W] to clean samples [B, C, H, W] in `steps` DDIM steps (Song et al. 2021), no gradient.

    Noise is N(0, I), and is scaled here to what the path begins with. It and the condition must be on the network's
    device. The result is not clamped.

    Raises:
        GridError: the path has no grid of so many steps.
    """
    grid = predictor.path.grid(steps).to(noise.device)
    z = noise * predictor.path.initial_scale
    for t, s in pairwise(grid.unsqueeze(1).expand(-1, len(z))):
        z = predictor.path.ddim(z, predictor(z, t, condition).x0, t, s)
    return z
