"""What the losses share: what the student is compared with, and a weighting by the noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from distillkit.interfaces import Loss, Step, TargetBatch
from distillkit_losses.weighting import Weighting, weight

if TYPE_CHECKING:
    from torch import Tensor

    from distillkit.noise import Prediction


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

    def goal(self, step: Step, target: TargetBatch | None) -> Tensor:
        """The x̂ that the student is compared with, [B, C, H, W]."""
        # The config's checks see to it that what a loss is against is there.
        if self.options.against == "data":
            assert step.data is not None
            return step.data
        assert target is not None
        return target.x0

    def weight(self, step: Step, student: Prediction) -> Tensor:
        """w for a squared error, [B]."""
        return weight(self.options.weighting, student.alpha, student.sigma, self.options.gamma).flatten()
