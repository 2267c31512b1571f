"""Which x̂ the student should have predicted."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from distillkit.component import Component
from distillkit.interfaces.steps import Stage, Step, TargetBatch
from distillkit.interfaces.teacher import Teacher

if TYPE_CHECKING:
    from distillkit.noise import NoisePath, Prediction


class Target(Component):
    """Turns the teacher's predictions along a jump's fine steps into the x̂ that the jump should have used."""

    needs_data: ClassVar[bool] = False
    """Whether it uses `step.data`, so that the source must draw from a data set."""

    @abstractmethod
    def stride(self, stage: Stage) -> int:
        """How many of the stage's fine steps the student learns to do in one jump. Must divide `stage.steps`."""

    @abstractmethod
    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """Evaluations of any network that `compute` makes per call (the student's own is not among them)."""

    @abstractmethod
    def compute(self, step: Step, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The target for one batch of jumps. Called without gradient.

        Args:
            step: the jumps; `step.times` is [stride + 1, B].
            student: the student's prediction at the jumps' start, with its gradient cut.
            teacher: whose predictions to use.
            path: the noise path.
        """
