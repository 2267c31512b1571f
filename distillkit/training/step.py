"""One update is one call of this module."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from distillkit.errors import DistillkitError
from distillkit.interfaces import JumpBatch, Loss, Ramp, Target, TargetBatch, Teacher
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

    def forward(self, jumps: JumpBatch, update: int = 0) -> tuple[Tensor, TargetBatch | None, Tensor, Tensor]:
        """Evaluate the student and its target.

        Args:
            jumps: where the student's jumps begin, and the fine steps that they span.
            update: the number of the update, from 0, on which the weights of the losses may depend.

        Returns:
            the loss, a scalar with a graph; the target, None in plain training; the root mean square of x̂, a scalar;
            and the samples' losses, [B], whose mean the loss is, without a graph.
        """
        # The student's view of z_t.
        student = self._student(jumps.z, jumps.times[0], jumps.student_condition, jumps.step_size)
        # What it should have been (Algorithm 2: "target x̂, detached").
        target, viewed = None, student
        x0 = student.x0.detach()
        if self._target is not None and self._teacher is not None:
            with torch.no_grad():
                target = self._target.compute(jumps, replace(student, x0=x0), self._teacher, self._path)
            if target.view is not None:
                viewed = target.view(student)
        # How far off it is: one prediction, and one graph, for all terms (equation 1).
        terms, each = [], []
        for loss in self._losses:
            weight = loss.options.weight
            if loss.options.against == "data":
                seen, goal = student, jumps.data
            else:
                seen, goal = viewed, None if target is None else target.x0
            if goal is None:
                raise DistillkitError(
                    f"loss: '{loss.name}' is against the {loss.options.against}, and the run has none: the source "
                    "gives no data, or there is no target"
                )
            factor = weight.at(update, self._updates) if isinstance(weight, Ramp) else weight
            values = loss.per_sample(jumps, seen, goal)
            terms.append(factor * values.mean())
            each.append(factor * values.detach())
        return torch.stack(terms).sum(), target, x0.square().mean().sqrt(), torch.stack(each).sum(0)
