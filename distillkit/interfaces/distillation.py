"""What an update learns from: sources draw jumps, and a target makes of a teacher's predictions what the student should
have predicted.

Shapes: B batch, C H W sample, S fine steps per jump.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field

from distillkit import distributed
from distillkit.component import Component
from distillkit.interfaces.data import Data
from distillkit.interfaces.engine import Update
from distillkit.interfaces.jumps import JumpBatch, TargetBatch
from distillkit.interfaces.model import Model
from distillkit.interfaces.schedule import Stage
from distillkit.interfaces.stateful import Stateful
from distillkit.noise import Condition, NoisePath, Prediction, Predictor

Scale = Annotated[float, Field(ge=0)]


def _rises(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("must be [low, high], the lower first")
    return bounds


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
    where `advance` said), "landing" (every batch has `landing`), "levels" (its batches say the `levels` of their jumps,
    if it has several, and have the times of each jump's parts: see `LevelSource`)."""
    follows: ClassVar[Literal["target", "student"]] = "target"
    """Optional. Whose landing `advance` takes where there is a target: its `z_next`, or where the student's jumps
    landed, which only runs with a critic know."""

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
        """Optional. Several numbers of steps, of which its batches have jumps at once. See `JumpBatch.levels`."""
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
        """Optional. Takes where jumps landed, [B, C, H, W], see `follows`: trajectories go on from there."""


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

    @property
    def predictor(self) -> Predictor | None:
        """Optional. The network whose predictions are the teacher's as they are; None if it changes them.

        Teachers of any kind share stored trajectories where these networks are the same.
        """
        return None

    def started(self, student: Predictor) -> None:
        """Optional. Called before the first update if the student has begun with a trained one's weights
        (`[student] start`), where all weights can be read: an average begins with these."""

    def after_update(self, student: Predictor, update: Update) -> None:
        """Optional. Called after every parameter update (an average follows here, see `Predictor.ema_update`)."""

    def end_stage(self, student: Predictor) -> None:
        """Optional. Called after every stage but the last, where all weights can be read (Algorithm 1: η ← θ)."""


class Target(Stateful):
    """Makes the target x̂ of a jump from the teacher's predictions along its fine steps."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Optional. What the source must give: "data" (it reads `jumps.data`), "walk" (it keeps something of a sample from
    one jump to the next), "landing" (it reads `jumps.landing`, and asks no teacher), "levels" (it reads
    `jumps.levels`). And "step_size" (it reads `jumps.step_size`), for which the student must be told it
    (`model.step_input`)."""
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

    def unteachable(self, stage: Stage, levels: tuple[int, ...]) -> str | None:
        """Optional. Why jumps of these numbers of steps (`Source.levels`) cannot be taught together; None if they can.

        The levels divide the stage's jumps. The answer follows the levels in a message: "2 must be among them, …".
        """
        return None

    def setup(self, student: Predictor) -> None:
        """Optional. Called once, before the first update, for a target that holds a network: see `Teacher.setup`."""

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Optional. Begin a stage, as `Source.start_stage`."""

    def started(self, student: Predictor) -> None:
        """Optional. See `Teacher.started`."""

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
