"""The student is its own teacher (DSD)."""

from __future__ import annotations

import torch

from distillkit.interfaces import Teacher
from distillkit.noise import Condition, Prediction, Predictor


class SelfTeacher(Teacher):
    """The network that is trained, as it is at this very update; no second network (Algorithm 2)."""

    name = "self"

    @property
    def reuses_student(self) -> bool:
        """The student takes a jump's first fine step."""
        return True

    def setup(self, student: Predictor) -> None:
        """Remember the student."""
        self._student = student

    def predict(self, z: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        """The student's own prediction."""
        prediction: Prediction = self._student(z, t, condition)
        return prediction
