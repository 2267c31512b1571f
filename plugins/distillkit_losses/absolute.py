"""The absolute error of x̂, averaged over a sample's elements."""

from __future__ import annotations

import torch

from distillkit.interfaces import JumpBatch, TargetBatch
from distillkit.noise import Prediction
from distillkit_losses.weighted import WeightedLoss


class XL1(WeightedLoss):
    """√w(λ_t) times the mean of |x̂ − x̃| (SFD: Zhou et al. 2024).

    Weightings are of squared errors, and their roots of absolute ones: "landing" makes it the landing's absolute
    error, "snr" that of ε̂.
    """

    name = "x-l1"

    def per_sample(self, jumps: JumpBatch, student: Prediction, target: TargetBatch | None) -> torch.Tensor:
        """The weighted error, [B]."""
        error = (student.x0 - self.goal(jumps, target)).abs().flatten(1).mean(1)
        return error * self.weight(jumps, student).sqrt()
