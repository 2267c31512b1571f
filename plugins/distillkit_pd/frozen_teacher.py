"""A frozen copy of the network as the teacher (progressive distillation, TSD, Luhman & Luhman)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from distillkit.interfaces import Teacher
from distillkit.noise import Condition, Prediction, Predictor


class FrozenTeacher(Teacher):
    """The network as it was at the beginning of the run or of the stage."""

    name = "frozen"
    copies = 1

    class Options(Teacher.Options):
        """
        Attributes:
            renew: when the student becomes the new teacher: at the end of each "stage", or "never".
            first_step: which network takes the first fine step of a jump: the "teacher", or the "student", whose
                prediction exists anyway: one evaluation less, and the student's own trajectory is corrected.
        """

        renew: Literal["stage", "never"] = "stage"
        first_step: Literal["teacher", "student"] = "teacher"

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.reuses_student = options.first_step == "student"
        self.follows_student = options.renew

    def setup(self, student: Predictor) -> None:
        """Copy the student."""
        self._frozen = student.frozen_copy()

    @property
    def predictor(self) -> Predictor:
        """The frozen network."""
        return self._frozen

    def predict(
        self, z: torch.Tensor, t: torch.Tensor, condition: Condition, step_size: torch.Tensor | None
    ) -> Prediction:
        """The frozen network's prediction."""
        prediction: Prediction = self._frozen(z, t, condition, step_size)
        return prediction

    def end_stage(self, student: Predictor) -> None:
        """The student becomes the teacher (Algorithm 1: η ← θ)."""
        if self.options.renew == "stage":
            self._frozen.load_state_dict(student.state_dict())

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The frozen weights."""
        return self._frozen.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load the frozen weights."""
        self._frozen.load_state_dict(state)
