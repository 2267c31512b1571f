"""Critics: networks that are trained beside the student, and tell it how its samples differ from what they should be.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import Field

from distillkit.component import Component
from distillkit.interfaces.data import Data
from distillkit.interfaces.distillation import Teacher
from distillkit.interfaces.engine import OptimizerTable
from distillkit.interfaces.jumps import JumpBatch
from distillkit.interfaces.model import Model
from distillkit.interfaces.stateful import Stateful
from distillkit.noise import Prediction, Predictor


@dataclass(frozen=True)
class Landing:
    """Where the student's jumps landed.

    Attributes:
        jumps: the jumps.
        student: the student's prediction at their start.
        z: where a DDIM step with it lands, at jumps.times[-1], [B, C, H, W]; clean samples where a jump ends there.
    """

    jumps: JumpBatch
    student: Prediction
    z: torch.Tensor

    def detach(self) -> Landing:
        """The same without a graph."""
        return Landing(self.jumps, replace(self.student, x0=self.student.x0.detach()), self.z.detach())


class Critic(Stateful):
    """A network that learns from the samples that the student makes, and judges them for losses that are against it.

    It is trained by an engine of its own, with the options of the run's, after each of the student's batches. A
    checkpoint holds its weights; no average of them is kept, and nothing of it is exported.
    """

    class Options(Component.Options):
        """
        Attributes:
            updates: the critic's updates after each of the student's batches, all from the same samples.
            warmup: the share of the run's updates, at its beginning, in which the critic learns alone.
            optimizer: as `[optimizer]`, for the critic's weights.
        """

        updates: int = Field(1, ge=1)
        warmup: float = Field(0.0, ge=0, lt=1)
        optimizer: OptimizerTable = OptimizerTable.model_validate({})

    options: Options
    needs: ClassVar[frozenset[str]] = frozenset()
    """Optional. What it asks of the run: "teacher" (it asks the teacher about the student's samples, which the teacher
    must not follow), "data" (it draws real samples from the config's [data])."""
    gives: ClassVar[frozenset[str]] = frozenset()
    """What losses that are against it can read, see `Loss.reads`."""
    network: torch.nn.Module
    """The network, float32, whose weights that require a gradient are trained. Set by `setup`."""
    copies: ClassVar[int] = 1
    """Optional. How many networks of the student's size it trains, for estimates of memory."""

    @abstractmethod
    def setup(self, model: Model, student: Predictor, data: Data | None) -> None:
        """Make `network`. Called once, before the first update.

        Args:
            model: the loaded model.
            student: the network as it was loaded; `student.trained_copy()` copies it.
            data: that are set up; None if the config has none.
        """

    @abstractmethod
    def evaluations(self, teacher: Teacher | None) -> int:
        """Evaluations after one of the student's: those of `judge`, and of `loss` for each of `options.updates`."""

    @abstractmethod
    def loss(self, landing: Landing, generator: torch.Generator) -> torch.Tensor:
        """The critic's own loss of each sample, [B], with a gradient for its network.

        Args:
            landing: the student's samples, without a graph.
            generator: on the CPU, the same in all processes: see `Source.draw`.
        """

    @abstractmethod
    def judge(self, landing: Landing, teacher: Teacher | None, generator: torch.Generator) -> Any:
        """What losses that are against it read: `goal` of `Loss.per_sample`.

        Its weights require no gradient meanwhile. If a loss needs the gradient through it (`Loss.through_critic`), that
        is what arrives at `landing.z`; otherwise none is computed.

        Args:
            landing: the student's samples, with their graph.
            teacher: the run's.
            generator: as for `loss`, with other numbers.
        """
