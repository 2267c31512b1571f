"""What the student learns: jumps, the x̂ that it should have predicted, and whose predictions that is made of.

Shapes: B batch, C H W sample, S fine steps per jump.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from distillkit.component import Component
from distillkit.interfaces.engine import Update
from distillkit.interfaces.schedule import Stage
from distillkit.noise import Condition, NoisePath, Prediction, Predictor


@dataclass(frozen=True)
class JumpBatch:
    """What a source draws: for each sample, where the student's jump begins and the fine steps that it spans.

    Attributes:
        z: noisy samples at times[0], [B, C, H, W].
        times: [S + 1, B], from the jump's start through the fine steps to its landing.
        condition: the samples' conditions.
        data, noise: the clean samples and the noise that z was made from, [B, C, H, W]; None on trajectories.
        landing: where the teacher lands at times[-1], [B, C, H, W]; None where the source does not know it.
        seed: seeds what a target draws; differs from batch to batch, and is the same on all ranks; set by the loop.
    """

    z: torch.Tensor
    times: torch.Tensor
    condition: Condition
    data: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    landing: torch.Tensor | None = None
    seed: int = 0

    def to(self, device: torch.device) -> JumpBatch:
        """The same batch on another device."""
        if self.z.device == self.times.device == device:
            return self
        return replace(
            self,
            z=self.z.to(device),
            times=self.times.to(device),
            condition=self.condition.to(device),
            data=None if self.data is None else self.data.to(device),
            noise=None if self.noise is None else self.noise.to(device),
            landing=None if self.landing is None else self.landing.to(device),
        )


def _unchanged(prediction: Prediction) -> Prediction:
    return prediction


@dataclass(frozen=True)
class TargetBatch:
    """What the student should have predicted, without gradient.

    Attributes:
        x0: the target x̂, [B, C, H, W].
        z_next: where trajectories go on from, [B, C, H, W]: as a rule, where the fine steps landed.
        view: applied to the student's prediction, with its gradient, before losses compare it with `x0`.
    """

    x0: torch.Tensor
    z_next: torch.Tensor
    view: Callable[[Prediction], Prediction] = _unchanged


class RunHooks(Component):
    """What sources, teachers and targets may do during a run. All methods are optional; by default they do nothing."""

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Begin a stage: its grid is `path.grid(stage.steps)`, and every jump spans `stage.stride` of its steps."""

    def after_update(self, student: Predictor, update: Update) -> None:
        """Called after every parameter update (an average follows the student here, see `Predictor.ema_update`)."""

    def end_stage(self, student: Predictor) -> None:
        """Called after every stage but the last, where all weights can be read (progressive distillation: η ← θ)."""

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """What a checkpoint must hold besides the student.

        Called in all processes; the first one writes it. Gather what belongs to a process's own samples here
        (`distributed.all_gather`), and take its part in `load_state_dict` (`distributed.shard`).
        """
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state_dict`; called after `start_stage`, if in the middle of a stage."""


class Teacher(RunHooks):
    """Predicts x̂ at the points that a target visits."""

    gives: ClassVar[frozenset[str]] = frozenset()
    """Optional. "guidance": it mixes the guidance that the student is to learn by its new input for the scale."""
    copies: ClassVar[int] = 0
    """Optional. How many copies of the network it holds, for estimates of memory."""

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
        """Optional. The prediction at the jump's start, made from the student's own; None: ask `predict`."""
        return student.detach() if self.reuses_student else None


class Target(RunHooks):
    """Turns the teacher's predictions along a jump's fine steps into the x̂ that the jump should have used."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Optional. What the source must give: "data" (it reads `jumps.data`), "walk" (it keeps something of a sample from
    one jump to the next), "landing" (it reads `jumps.landing`, and asks no teacher)."""
    copies: ClassVar[int] = 0
    """Optional. How many copies of the network it holds itself, for estimates of memory."""

    @abstractmethod
    def stride(self, stage: Stage) -> int:
        """How many of the stage's fine steps the student learns to do in one jump. Must divide `stage.steps`."""

    @abstractmethod
    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """Evaluations of any network that `compute` makes per call (the student's own is not among them)."""

    def setup(self, student: Predictor) -> None:
        """Optional. Called once, before the first update, for a target that holds a network: see `Teacher.setup`."""

    @abstractmethod
    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The target for one batch of jumps. Called without gradient.

        Args:
            jumps: `jumps.times` is [stride + 1, B].
            student: the student's prediction at the jumps' start, with its gradient cut.
            teacher: whose predictions to use.
            path: the noise path.
        """
