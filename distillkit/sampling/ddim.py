"""Deterministic sampling: DDIM along the path's own grid.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch

from distillkit.noise import Condition, NoisePath, Prediction, Predictor


def walk(
    predict: Callable[[torch.Tensor, torch.Tensor, Condition], Prediction],
    path: NoisePath,
    noise: torch.Tensor,
    condition: Condition,
    steps: int,
) -> Iterator[torch.Tensor]:
    """The states on the way from noise to clean samples in `steps` DDIM steps (Song et al. 2021), no gradient.

    Yields the noise, scaled to what the path begins with, and where each step lands: `steps` + 1 states
    [B, C, H, W]. The last is not clamped.

    Args:
        predict: (z, t [B], condition) -> the prediction that the next step uses.
        path: the noise path, whose grid of `steps` steps is walked.
        noise: N(0, I), [B, C, H, W], on the network's device, as is the condition.

    Raises:
        GridError: the path has no grid of so many steps.
    """
    grid = path.grid(steps).to(noise.device)
    z = noise * path.initial_scale
    yield z
    for t, s in pairwise(grid.unsqueeze(1).expand(-1, len(z))):
        with torch.no_grad():
            z = path.ddim(z, predict(z, t, condition).x0, t, s)
        yield z


def sample(predictor: Predictor, noise: torch.Tensor, condition: Condition, steps: int) -> torch.Tensor:
    """The clean samples [B, C, H, W] at the end of a `walk` from noise [B, C, H, W]. Not clamped, no gradient.

    Raises:
        GridError: the path has no grid of so many steps.
    """
    [end] = deque(walk(predictor, predictor.path, noise, condition, steps), maxlen=1)
    return end
