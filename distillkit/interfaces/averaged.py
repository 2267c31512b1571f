"""Teachers and targets that hold a slow average of the student."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch

from distillkit.interfaces.engine import Update
from distillkit.interfaces.stateful import Stateful
from distillkit.noise import Predictor


class Averaged(Stateful):
    """A teacher or a target, named first among its base classes, with a slow average of the student in `average`."""

    @property
    @abstractmethod
    def decay(self) -> float:
        """The average's decay per update."""

    def setup(self, student: Predictor) -> None:
        """Start the average at the student."""
        self.average = student.frozen_copy()

    def started(self, student: Predictor) -> None:
        """Start the average anew."""
        self.average.ema_update(student, 0.0, torch.ones((), device=student.device))

    def after_update(self, student: Predictor, update: Update) -> None:
        """Move the average towards the student."""
        self.average.ema_update(student, self.decay, update.made)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The average's weights."""
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load the average's weights."""
        self.average.load_state_dict(state)
