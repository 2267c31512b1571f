"""What an update learns from: sources draw jumps, and a target makes of a teacher's predictions what the student should
have predicted.

Shapes: B batch, C H W sample, S fine steps per jump.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field

from distillkit import distributed
from distillkit.component import Component
from distillkit.interfaces.data import Data
from distillkit.interfaces.engine import Update
from distillkit.interfaces.model import Model
from distillkit.interfaces.schedule import Stage
from distillkit.interfaces.stateful import Stateful
from distillkit.noise import Condition, NoisePath, Prediction, Predictor

Scale = Annotated[float, Field(ge=0)]


def _rises(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("must be [low, high], the lower first")
    return bounds


@dataclass(frozen=True)
class JumpBatch:
    """What a source draws: for each sample, where the student's jump begins and the fine steps that it spans.

    Attributes:
        z: noisy samples at times[0], [B, C, H, W].
        times: [S + 1, B], from the jump's start through the fine steps to its landing.
        condition: the samples' conditions.
        data, noise: the clean samples and the noise that z was made from, [B, C, H, W]; None on trajectories.
        landing: where the teacher lands at times[-1], [B, C, H, W]; None where the source does not know it.
        step_size: the jumps as shares of the trajectory, [B]; None: as `Target.step_size` says. See `Predictor`.
        baked: whether the condition's guidance is the teacher's alone (`[student] guidance`). Set by the loop.
        seed: what a target's random numbers depend on: (the run's seed, update, batch of the update). Set by the loop.
    """

    z: torch.Tensor
    times: torch.Tensor
    condition: Condition
    data: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    landing: torch.Tensor | None = None
    step_size: torch.Tensor | None = None
    baked: bool = False
    seed: tuple[int, ...] = ()

    def to(self, device: torch.device) -> JumpBatch:
        """The same batch on another device."""
        if self.z.device == self.times.device == device:
            return self
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")})

    @property
    def student_condition(self) -> Condition:
        """The condition for the student, and for an average of it."""
        return replace(self.condition, guidance=None) if self.baked else self.condition

    @property
    def fine_step_size(self) -> torch.Tensor | None:
        """The `step_size` of each of a jump's fine steps, [B]."""
        return None if self.step_size is None else self.step_size / (len(self.times) - 1)


@dataclass(frozen=True)
class TargetBatch:
    """What the student should have predicted, without gradient.

    Attributes:
        x0: the target x̂, [B, C, H, W].
        z_next: where trajectories go on from, [B, C, H, W]: as a rule, where the fine steps landed.
        view: applied to the student's prediction, with its gradient, before losses compare it with `x0`; None: losses
            compare the prediction itself.
    """

    x0: torch.Tensor
    z_next: torch.Tensor
    view: Callable[[Prediction], Prediction] | None = None


class Source(Stateful):
    """Draws the jumps on which the student is trained."""

    class Options(Component.Options):
        """
        Attributes:
            batch: samples per draw and process, B.
            guidance: guidance scale s (1: none): one for all, or [low, high], drawn evenly for each sample.
        """

        batch: int = Field(16, ge=1)
        guidance: Scale | Annotated[tuple[Scale, Scale], AfterValidator(_rises)] = 1.0

    options: Options
    gives: ClassVar[frozenset[str]] = frozenset()
    """Optional. What its batches have, for targets and losses that need it: "data" (it draws from the config's [data];
    every batch has `data` and `noise`), "walk" (a sample's jumps follow one another from noise to data, each beginning
    where `advance` said), "landing" (every batch has `landing`)."""

    @property
    def global_batch(self) -> int:
        """Samples per draw of all processes together."""
        return self.options.batch * distributed.world_size() if distributed.active else self.options.batch

    def shard(self, tensor: torch.Tensor) -> torch.Tensor:
        """This process's part of a tensor that all processes have: [global_batch, ...] -> [batch, ...]."""
        return distributed.shard(tensor) if distributed.active else tensor

    @property
    def sequential(self) -> bool:
        """Optional. Whether all samples of a batch walk one trajectory in step: stages are then whole trajectories."""
        return False

    @property
    def levels(self) -> tuple[int, ...]:
        """Optional. Several numbers of steps, of which its batches have jumps at once: then only their two ends."""
        return ()

    @property
    def spacing(self) -> str | None:
        """Optional. The `grid.spacing` of grids of its own; None if it has only the run's."""
        return None

    @abstractmethod
    def setup(self, model: Model, data: Data | None) -> None:
        """Called once, before the first stage, with the loaded model and the data (None if the config has none)."""

    @abstractmethod
    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Begin a stage: its grid is `path.grid(stage.steps)`, and every jump spans `stage.stride` of its steps."""

    def draw_guidance(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Guidance scales for `count` samples, [count]; None where all are 1, so that nothing is computed twice."""
        guidance = self.options.guidance
        low, high = guidance if isinstance(guidance, tuple) else (guidance, guidance)
        if low == high == 1:
            return None
        return low + (high - low) * torch.rand(count, generator=generator)

    def draw_condition(self, model: Model, generator: torch.Generator, count: int | None = None) -> Condition:
        """The conditions of samples whose classes are drawn uniformly, and their guidance scales as the options say.

        Args:
            model: the loaded model.
            generator: on the CPU.
            count: the number of samples; None: for `global_batch` samples, of which this process keeps its own.
        """
        total = self.global_batch if count is None else count
        guidance = self.draw_guidance(total, generator)
        labels = None
        if model.spec.classes is not None:
            labels = torch.randint(model.spec.classes, (total,), generator=generator)
        if count is None and distributed.active:
            labels, guidance = (None if drawn is None else self.shard(drawn) for drawn in (labels, guidance))
        return model.condition(labels, self.options.batch if count is None else count, guidance)

    @abstractmethod
    def draw(self, generator: torch.Generator) -> JumpBatch:
        """The next batch of jumps.

        All randomness must come from `generator` (on the CPU), which is the same in all processes: draw for
        `global_batch` samples, and keep this process's `shard`. So k processes with a batch of b do what
        one with k·b does.
        """

    def advance(self, z_next: torch.Tensor) -> None:
        """Optional. Takes the target's `z_next`, [B, C, H, W]: trajectories go on from there."""


class Teacher(Stateful):
    """Predicts x̂ at the points that a target visits."""

    gives: ClassVar[frozenset[str]] = frozenset()
    """Optional. "guidance": it mixes the guidance that the student is to learn by its new input for the scale."""
    reuses_student: bool = False
    """Optional. Whether the student's prediction at a jump's start is also the teacher's, which saves an evaluation.
    The core sets it to False for networks that take the step size: there, a jump and its fine steps differ."""
    follows_student: Literal["never", "stage", "update"] = "never"
    """Optional. When its weights become the student's, or move towards them: then it has baked guidance inside."""
    copies: ClassVar[int] = 0
    """Optional. How many copies of the network it holds, for estimates of memory."""
    evaluations: ClassVar[int] = 1
    """Optional. Evaluations per prediction, for the plan. A call of a `Predictor` is one, with guidance as well."""

    @abstractmethod
    def setup(self, student: Predictor) -> None:
        """Called once, before the first update.

        Args:
            student: the network that is trained; `student.frozen_copy()` copies it as it is now.
        """

    @abstractmethod
    def predict(
        self, z: torch.Tensor, t: torch.Tensor, condition: Condition, step_size: torch.Tensor | None
    ) -> Prediction:
        """The teacher's prediction, without gradient, from z [B, C, H, W] at t [B] for a step of this size [B]."""

    def after_update(self, student: Predictor, update: Update) -> None:
        """Optional. Called after every parameter update (an average follows here, see `Predictor.ema_update`)."""

    def end_stage(self, student: Predictor) -> None:
        """Optional. Called after every stage but the last, where all weights can be read (Algorithm 1: η ← θ)."""


class Target(Stateful):
    """Makes the target x̂ of a jump from the teacher's predictions along its fine steps."""

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
        """Evaluations of `compute`, without the student's own; a prediction takes `teacher.evaluations`."""

    def step_size(self, stage: Stage) -> float:
        """Optional. The size of the stage's jumps, for networks that take it: a share of the trajectory, in (0, 1]."""
        return stage.stride / stage.steps

    def setup(self, student: Predictor) -> None:
        """Optional. Called once, before the first update, for a target that holds a network: see `Teacher.setup`."""

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Optional. Begin a stage, as `Source.start_stage`."""

    def after_update(self, student: Predictor, update: Update) -> None:
        """Optional. See `Teacher.after_update`."""

    @abstractmethod
    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The target for one batch of jumps. Called without gradient.

        Args:
            jumps: `jumps.times` is [stride + 1, B].
            student: the student's prediction at the jumps' start, with its gradient cut.
            teacher: whose predictions to use.
            path: the noise path.
        """
