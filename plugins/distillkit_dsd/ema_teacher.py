"""A slow average of the student teaches it (an anchored DSD)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field

from distillkit.interfaces import Teacher, Update
from distillkit.noise import Condition, Prediction, Predictor


class EmaTeacher(Teacher):
    """The student takes a jump's first fine step itself, its slow average the others.

    Costs one copy of the weights and no evaluation more than DSD. Self-distillation has no anchor but its starting
    point: errors that the student makes become its targets. An average that forgets slowly is such an anchor.
    """

    name = "ema"
    copies = 1

    class Options(Teacher.Options):
        """
        Attributes:
            decay: the average's decay per update; 1 never moves (the original network).
        """

        decay: float = Field(0.999, ge=0, le=1)

    options: Options

    @property
    def reuses_student(self) -> bool:
        """The student takes a jump's first fine step."""
        return True

    def setup(self, student: Predictor) -> None:
        """Start the average at the student."""
        self._average = student.frozen_copy()

    def predict(self, z: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        """The average's prediction."""
        prediction: Prediction = self._average(z, t, condition)
        return prediction

    def after_update(self, student: Predictor, update: Update) -> None:
        """Move the average towards the student."""
        self._average.ema_update(student, self.options.decay, update.made)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The average's weights."""
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put the average's weights back."""
        self._average.load_state_dict(state)
