"""How far off the student is, and how much that matters."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field

from distillkit.component import Component, StrictModel
from distillkit.interfaces.jumps import JumpBatch
from distillkit.noise import NoisePath, Prediction


class Ramp(StrictModel):
    """A factor that rises or falls linearly over the updates, and then stays.

    Attributes:
        start: at the first update (`from` in a config).
        to: where it leads.
        updates: after how many updates it is there; None: with the run's last.
    """

    start: float = Field(alias="from", ge=0)
    to: float = Field(ge=0)
    updates: int | None = Field(None, ge=1)

    def at(self, update: int, updates: int) -> float:
        """The factor of update number `update` (from 0) of a run of `updates`."""
        return self.start + (self.to - self.start) * min(1.0, update / (self.updates or max(updates - 1, 1)))


class Loss(Component):
    """One term of the loss; the terms of a config add up."""

    class Options(Component.Options):
        """
        Attributes:
            weight: the term's factor (α, β of equation 1): a number, or a ramp {from, to, updates}, linear from the
                first update to number `updates` and then constant; without `updates`, over the whole run.
            balance: multiply each sample's factor by what makes its gradient with respect to x̂ as large as that of the
                other terms' sum (as λ of FreeFlow: Tong et al. 2025; there, of a batch, with respect to weights).
            against: what the student is compared with: the teacher's "target" or the "data" that z was made from; or
                the "critic", which judges where the student lands.
        """

        weight: Annotated[float, Field(ge=0)] | Ramp = 1.0
        balance: bool = False
        against: Literal["target", "data", "critic"] = "target"

    options: Options
    reads: ClassVar[str | None] = None
    """Optional. For a loss that is against the critic: what it reads of it, which must be in `Critic.gives`."""
    through_critic: ClassVar[bool] = False
    """Optional. Whether its gradient goes through the networks that judge the student's landing."""

    def setup(self, path: NoisePath) -> None:
        """Optional. Called once, before the first update, with the noise path."""

    @abstractmethod
    def per_sample(self, jumps: JumpBatch, student: Prediction, goal: Any) -> torch.Tensor:
        """The term for each sample, [B], without the factor `weight`.

        Args:
            jumps: the jumps that the student predicts.
            student: its prediction, with a gradient; if `against` is "target", as the target views it.
            goal: what it is compared with, as `against` says: the target's x̂ or the data, [B, C, H, W], or what
                `Critic.judge` says of where the student landed.
        """
