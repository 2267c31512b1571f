"""One update is one call of this module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit.interfaces import JumpBatch, Loss, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Predictor


class DistillStep(nn.Module):
    """Both evaluations of an update: the student's with a gradient, the target's without.

    An engine wraps this module, and so sees one forward and one backward pass per batch. A frozen teacher is not a
    submodule of it.

    Args:
        student: the network that is trained.
        teacher, target, losses, path: of the run.
        updates: parameter updates of the whole run, over which the weights of the losses may change.
    """

    def __init__(
        self,
        student: Predictor,
        teacher: Teacher | None,
        target: Target | None,
        losses: list[Loss],
        path: NoisePath,
        updates: int,
    ) -> None:
        super().__init__()
        self.student = student.module  # which makes its weights this module's
        self._student = student
        self._teacher = teacher
        self._target = target
        self._losses = losses
        self._path = path
        self._updates = updates

    def forward(self, jumps: JumpBatch, update: int = 0) -> tuple[Tensor, TargetBatch | None, Tensor]:
        """Evaluate the student and its target.

        Args:
            jumps: where the student's jumps begin, and the fine steps that they span.
            update: the number of the update, from 0, on which the weights of the losses may depend.

        Returns:
            the loss, a scalar with a graph; the target, None in plain training; the root mean square of x̂, a scalar.
        """
        # The student's view of z_t.
        student = self._student(jumps.z, jumps.times[0], jumps.condition)
        # What it should have been (Algorithm 2: "target x̂, detached").
        target = None
        if self._target is not None and self._teacher is not None:
            with torch.no_grad():
                target = self._target.compute(jumps, student.detach(), self._teacher, self._path)
        # How far off it is: one prediction, and one graph, for all terms (equation 1).
        viewed = student if target is None else target.view(student)
        terms = [
            loss.weight_at(update, self._updates)
            * loss.per_sample(jumps, viewed if loss.options.against == "target" else student, target).mean()
            for loss in self._losses
        ]
        return torch.stack(terms).sum(), target, student.x0.detach().square().mean().sqrt()
