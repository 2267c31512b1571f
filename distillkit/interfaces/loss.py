"""How far off the student is, and how much that matters."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

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
            against: what the student is compared with: the teacher's "target" or the "data" that z was made from.
        """

        weight: Annotated[float, Field(ge=0)] | Ramp = 1.0
        against: Literal["target", "data"] = "target"

    options: Options

    def setup(self, path: NoisePath) -> None:
        """Optional. Called once, before the first update, with the noise path."""

    @abstractmethod
    def per_sample(self, jumps: JumpBatch, student: Prediction, goal: torch.Tensor) -> torch.Tensor:
        """The term for each sample, [B], without the factor `weight`.

        Args:
            jumps: the jumps that the student predicts.
            student: its prediction, with a gradient; if `against` is "target", as the target views it.
            goal: what it is compared with, [B, C, H, W]: the target's x̂ or the data, as `against` says.
        """
