"""What the losses share: what the student is compared with, and a weighting by the noise."""

from __future__ import annotations

import torch
from pydantic import Field

from distillkit.interfaces import JumpBatch, Loss, TargetBatch
from distillkit.noise import NoisePath, Prediction
from distillkit_losses.weighting import Weighting, landing, weight


class WeightedLoss(Loss):
    """A loss with a weighting w(λ_t)."""

    class Options(Loss.Options):
        """
        Attributes:
            weighting: w(λ_t), see `distillkit_losses.weighting`.
            gamma: γ of "min-snr".
        """

        weighting: Weighting = "none"
        gamma: float = Field(5.0, gt=0)

    options: Options

    def setup(self, path: NoisePath) -> None:
        """Remember the path, which knows the noise where a jump lands."""
        self._path = path

    def goal(self, jumps: JumpBatch, target: TargetBatch | None) -> torch.Tensor:
        """The x̂ that the student is compared with, [B, C, H, W]."""
        # The config's checks see to it that what a loss is against is there.
        if self.options.against == "data":
            assert jumps.data is not None
            return jumps.data
        assert target is not None
        return target.x0

    def weight(self, jumps: JumpBatch, student: Prediction) -> torch.Tensor:
        """w for a squared error, [B]."""
        if self.options.weighting == "landing":
            return landing(self._path, jumps.times[0], jumps.times[-1]).flatten()
        return weight(self.options.weighting, student.alpha, student.sigma, self.options.gamma).flatten()
