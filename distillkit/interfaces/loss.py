"""How far off the student is, and how much that matters."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from distillkit.component import Component
from distillkit.interfaces.steps import Step, TargetBatch

if TYPE_CHECKING:
    from torch import Tensor

    from distillkit.noise import NoisePath, Prediction


class Loss(Component):
    """One term of the loss; the terms of a config add up."""

    class Options(Component.Options):
        """
        Attributes:
            weight: the term's factor (α, β of equation 1).
            against: what the student is compared with: the teacher's "target" or the "data" that z was made from.
        """

        weight: float = Field(1.0, gt=0)
        against: Literal["target", "data"] = "target"

    options: Options

    def setup(self, path: NoisePath) -> None:
        """Called once, before the first update, with the noise path."""

    @abstractmethod
    def per_sample(self, step: Step, student: Prediction, target: TargetBatch | None) -> Tensor:
        """The term for each sample, [B], without the factor `weight`.

        `target` is None where no term is against the target; `step.data` where the source has none.
        """
