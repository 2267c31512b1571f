"""Whose prediction is the goal."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch

from distillkit.component import Component
from distillkit.interfaces.engine import Update
from distillkit.noise import Condition, Prediction, Predictor


class Teacher(Component):
    """Answers what x̂ is at the points that a target visits."""

    copies: ClassVar[int] = 0
    """How many copies of the network it holds, for estimates of memory."""
    mixes_guidance: ClassVar[bool] = False
    """Whether it mixes the guidance that the student is to do by its input for the scale, which must then be new."""

    @property
    @abstractmethod
    def reuses_student(self) -> bool:
        """Whether the student's own prediction at the jump's start serves as the teacher's, so that it is not
        computed twice. Known before any network is loaded: the plan counts evaluations with it."""

    @abstractmethod
    def setup(self, student: Predictor) -> None:
        """Called once, before the first update.

        Args:
            student: the network that is trained; `student.frozen_copy()` copies it as it is now.
        """

    @abstractmethod
    def predict(self, z: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        """The teacher's prediction from z [B, C, H, W] at t [B]. Called without gradient."""

    def reuse(self, student: Prediction) -> Prediction | None:
        """The prediction at the jump's start made from the student's own; None: ask `predict`."""
        return student.detach() if self.reuses_student else None

    def after_update(self, student: Predictor, update: Update) -> None:
        """Called after every parameter update (an EMA teacher follows the student here)."""

    def end_stage(self, student: Predictor) -> None:
        """Called after every stage but the last (progressive distillation: teacher <- student)."""

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """What a checkpoint must hold besides the student; empty if nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state_dict`."""
