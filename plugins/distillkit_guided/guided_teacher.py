"""A frozen copy with classifier-free guidance teaches the network to take the scale as an input."""

from __future__ import annotations

import torch

from distillkit.interfaces import Teacher
from distillkit.noise import Condition, Prediction, Predictor


class GuidedTeacher(Teacher):
    """A frozen copy whose two predictions are mixed, x̂ = x̂_u + s(x̂_c − x̂_u) (Meng et al. 2023, section 3.1).

    The scale s is the student's input. The copy gets it too, but its input for the scale is new and has weights of zero
    (`model.guidance_input`). A prediction is one evaluation of a batch of twice the size.
    """

    name = "guided"
    copies = 1
    gives = frozenset({"guidance"})

    def setup(self, student: Predictor) -> None:
        """Copy the student."""
        self._frozen = student.frozen_copy()

    def predict(
        self, z: torch.Tensor, t: torch.Tensor, condition: Condition, step_size: torch.Tensor | None
    ) -> Prediction:
        """The guided prediction."""
        prediction: Prediction = self._frozen(z, t, condition.mixed(), step_size)
        return prediction
