"""The absolute error of x̂, averaged over a sample's elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit.interfaces import Step, TargetBatch
from distillkit_losses.weighted import WeightedLoss

if TYPE_CHECKING:
    from torch import Tensor

    from distillkit.noise import Prediction


class XL1(WeightedLoss):
    """√w(λ_t) times the mean of |x̂ − x̃| (SFD: Zhou et al. 2024).

    Weightings are of squared errors, and their roots of absolute ones: "landing" makes it the landing's absolute
    error, "snr" that of ε̂.
    """

    name = "x-l1"

    def per_sample(self, step: Step, student: Prediction, target: TargetBatch | None) -> Tensor:
        """The weighted error, [B]."""
        error = (student.x0 - self.goal(step, target)).abs().flatten(1).mean(1)
        return error * self.weight(step, student).sqrt()
