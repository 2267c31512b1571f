"""One update is one call of `DistillStep`, and one of the critic's is one of `CriticStep`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distillkit.errors import DistillkitError
from distillkit.interfaces import Critic, JumpBatch, Landing, Loss, Ramp, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Predictor
from distillkit.sampling import generator


@dataclass(frozen=True)
class Term:
    """What a loss says of each sample, [B], its factor, and whether it is to weigh as much as the other terms."""

    values: Tensor
    factor: float
    balance: bool


class DistillStep(nn.Module):
    """All evaluations of an update: the student's with a gradient, the target's without, and the critic's.

    An engine wraps this module, and so sees one forward and one backward pass per batch. Frozen teachers and critics
    are no submodules of it.

    Args:
        student: the network that is trained.
        teacher, target, losses, path, critic: of the run.
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
        critic: Critic | None = None,
    ) -> None:
        super().__init__()
        self.student = student.module  # which makes its weights this module's
        self._student = student
        self._teacher = teacher
        self._target = target
        self._losses = losses
        self._path = path
        self._updates = updates
        self._critic = critic

    def forward(
        self, jumps: JumpBatch, update: int = 0
    ) -> tuple[Tensor, TargetBatch | None, Tensor, Tensor, Tensor, Landing | None]:
        """Evaluate the student and its target.

        Args:
            jumps: where the student's jumps begin, and the fine steps that they span.
            update: the number of the update, from 0, on which the weights of the losses may depend.

        Returns:
            the loss, a scalar with a graph; the target, None in plain training; the root mean square of x̂, a scalar;
            the samples' losses, [B], whose mean the loss is, without a graph; the share of each term in the gradient,
            [terms], which is 0 where nothing is shared; and where the jumps landed, without a graph, None without a
            critic.
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
        goals: dict[str, object] = {"data": jumps.data, "target": None if target is None else target.x0}
        # What a critic says of where it landed.
        landing = None
        if self._critic is not None:
            landed = self._path.ddim(jumps.z, student.x0, jumps.times[0], jumps.times[-1])
            through = torch.is_grad_enabled() and any(loss.through_critic for loss in self._losses)
            landing = Landing(jumps, replace(student, x0=x0), landed.detach().requires_grad_(through))
            with torch.set_grad_enabled(through):
                goals["critic"] = self._critic.judge(landing, self._teacher, generator(*jumps.seed, "judge"))
        # How far off it is: one prediction, and one graph, for all terms (equation 1).
        terms: list[Term] = []
        for loss in self._losses:
            weight, goal = loss.options.weight, goals.get(loss.options.against)
            if goal is None:
                raise DistillkitError(
                    f"loss: '{loss.name}' is against the {loss.options.against}, and the run has none: the source "
                    "gives no data, or there is no target"
                )
            if landing is not None and landing.z.requires_grad and loss.through_critic:
                values = loss.per_sample(jumps, landing.student, goal)
                # The graph of critic and teacher ends here, so that it does not reach their weights.
                [gradient] = torch.autograd.grad(values.sum(), landing.z, retain_graph=True)
                values = values.detach() + ((landed - landed.detach()) * gradient).flatten(1).sum(1)
            else:
                values = loss.per_sample(jumps, viewed if loss.options.against == "target" else student, goal)
            factor = weight.at(update, self._updates) if isinstance(weight, Ramp) else weight
            terms.append(Term(values, factor, loss.options.balance))
        total, each, shares = _sum(terms, student.x0)
        size = x0.square().mean().sqrt()
        return total, target, size, each, shares, None if landing is None else landing.detach()


class CriticStep(nn.Module):
    """One update of a critic, which an engine wraps.

    Args:
        critic: the run's, set up.
    """

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.network = critic.network  # which makes its weights this module's
        self._critic = critic

    def forward(self, landing: Landing, number: int) -> Tensor:
        """The critic's loss, a scalar with a graph.

        Args:
            landing: where the student's jumps landed, without a graph.
            number: of the critic's update among those that learn from this landing.
        """
        return self._critic.loss(landing, generator(*landing.jumps.seed, f"critic {number}")).mean()


def _sum(terms: list[Term], x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of the terms: as a scalar with a graph; of each sample, [B]; and the terms' shares, [terms].

    A term's share is that of the norm of its gradient with respect to x̂, [B, C, H, W], in the sum of these norms.
    """
    # There is nothing to share with one term, or while a critic learns alone.
    if len(terms) == 1 or not x0.requires_grad:
        norms = torch.zeros(len(terms), device=x0.device)
    else:
        gradients = [torch.autograd.grad(term.values.sum(), x0, retain_graph=True)[0].flatten(1) for term in terms]
        plain = [term.factor * own for term, own in zip(terms, gradients, strict=True) if not term.balance]
        goal, sizes = torch.stack(plain).sum(0).norm(dim=1), [own.norm(dim=1) for own in gradients]
        for i, term in enumerate(terms):
            if term.balance:
                # Where a gradient is 0, as while a critic says what the teacher says, no factor makes it larger.
                ratio = goal / sizes[i].clamp(min=torch.finfo(goal.dtype).tiny ** 0.5)
                terms[i], sizes[i] = replace(term, values=ratio * term.values), ratio * sizes[i]
        norms = torch.stack([term.factor * size.mean() for term, size in zip(terms, sizes, strict=True)])
    return (
        torch.stack([term.factor * term.values.mean() for term in terms]).sum(),
        torch.stack([term.factor * term.values.detach() for term in terms]).sum(0),
        norms / norms.sum().clamp(min=torch.finfo(norms.dtype).tiny),
    )
