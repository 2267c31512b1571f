"""The average of the weights in the weights' place, and back. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def swap(weights: Sequence[torch.Tensor], average: Sequence[torch.Tensor] | None) -> None:
    """Exchange the contents of weights, without gradient, and of their average; None: there is none."""
    for weight, mean in zip(weights, average or (), strict=False):
        kept = weight.detach().clone()
        weight.detach().copy_(mean)
        mean.copy_(kept)
