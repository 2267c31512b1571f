"""Which x̂ the student should have predicted."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from distillkit.component import Component
from distillkit.interfaces.engine import Update
from distillkit.interfaces.steps import JumpBatch, Stage, TargetBatch
from distillkit.interfaces.teacher import Teacher
from distillkit.noise import NoisePath, Prediction, Predictor


class Target(Component):
    """Turns the teacher's predictions along a jump's fine steps into the x̂ that the jump should have used."""

    copies: ClassVar[int] = 0
    """How many copies of the network it holds itself, for estimates of memory."""
    needs_walk: ClassVar[bool] = False
    """Whether it keeps something of a sample from one jump to the next, so that the source must walk trajectories."""
    needs_data: ClassVar[bool] = False
    """Whether it uses `jumps.data`, so that the source must draw from a data set."""
    needs_landing: ClassVar[bool] = False
    """Whether it uses `jumps.landing` and asks no teacher, so that the source must know where the teacher lands."""

    @abstractmethod
    def stride(self, stage: Stage) -> int:
        """How many of the stage's fine steps the student learns to do in one jump. Must divide `stage.steps`."""

    @abstractmethod
    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """Evaluations of any network that `compute` makes per call (the student's own is not among them)."""

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Begin a stage, as the source does: its grid is `path.grid(stage.steps)`."""

    @abstractmethod
    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The target for one batch of jumps. Called without gradient.

        Args:
            jumps: `jumps.times` is [stride + 1, B].
            student: the student's prediction at the jumps' start, with its gradient cut.
            teacher: whose predictions to use.
            path: the noise path.
        """

    def setup(self, student: Predictor) -> None:
        """Called once, before the first update, for a target that needs a network of its own.

        Args:
            student: the network that is trained; `student.frozen_copy()` copies it as it is now.
        """

    def after_update(self, student: Predictor, update: Update) -> None:
        """Called after every parameter update (a slow average follows the student here)."""

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """What a checkpoint must hold besides the student; empty if nothing.

        Called in all processes, of which the first writes it: what each knows of its own samples is gathered here
        (`distributed.all_gather`), and divided again in `load_state_dict` (`distributed.shard`).
        """
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state_dict`; called after `start_stage`, if in the middle of a stage."""
