"""The pseudo-Huber distance of x̂, over the whole sample's norm."""

from __future__ import annotations

import torch
from pydantic import Field

from distillkit.interfaces import JumpBatch, TargetBatch
from distillkit.noise import Prediction
from distillkit_losses.weighted import WeightedLoss

C_PER_ROOT_DIMENSION = 0.00054
"""iCT's c for each √(C·H·W)."""


class XHuber(WeightedLoss):
    """√w(λ_t) times √(‖x̂ − x̃‖² + c²) − c, of the norm over all of a sample's elements (Song & Dhariwal 2023, iCT).

    A square where the error is well below c and the norm itself above, so that a few bad samples do not drown the
    others. Weightings are of squared errors, and their roots of this one.
    """

    name = "x-huber"

    class Options(WeightedLoss.Options):
        """
        Attributes:
            c: where the square becomes a norm; left out, 0.00054·√(C·H·W).
        """

        c: float | None = Field(None, gt=0)

    options: Options

    def per_sample(self, jumps: JumpBatch, student: Prediction, target: TargetBatch | None) -> torch.Tensor:
        """The weighted distance, [B]."""
        difference = (student.x0 - self.goal(jumps, target)).flatten(1)
        c = self.options.c or C_PER_ROOT_DIMENSION * difference.shape[1] ** 0.5
        squared = difference.square().sum(1)
        # The same as √(squared + c²) − c, without the cancellation.
        distance = squared / ((squared + c**2).sqrt() + c)
        return distance * self.weight(jumps, student).sqrt()
