"""Where z_t comes from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import AfterValidator, Field

from distillkit import distributed
from distillkit.component import Component
from distillkit.interfaces.data import Data
from distillkit.interfaces.model import Model
from distillkit.interfaces.steps import JumpBatch, Stage
from distillkit.interfaces.teacher import Teacher
from distillkit.noise import NoisePath, Predictor

Scale = Annotated[float, Field(ge=0)]


def _rises(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("must be [low, high], the lower first")
    return bounds


class Source(Component):
    """Hands out the jumps that the student is taught on."""

    class Options(Component.Options):
        """
        Attributes:
            batch: samples per draw and process, B.
            guidance: guidance scale s (1: none): one for all, or [low, high], drawn evenly for each sample.
        """

        batch: int = Field(16, ge=1)
        guidance: Scale | Annotated[tuple[Scale, Scale], AfterValidator(_rises)] = 1.0

    options: Options
    needs_data: bool
    """Whether it draws from a data set; if so, every batch has `data` and `noise`."""
    walks: bool = False
    """Whether a sample's jumps follow one another from noise to data, each beginning where `advance` said."""

    knows_landing: bool = False
    """Whether every batch says where the teacher lands (`JumpBatch.landing`)."""

    @property
    def global_batch(self) -> int:
        """Samples per draw of all processes together."""
        return self.options.batch * distributed.world_size()

    @property
    def sequential(self) -> bool:
        """Whether all samples of a batch walk one trajectory in step, so that stages should be whole trajectories."""
        return False

    def draw_guidance(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Guidance scales for `count` samples, [count]; None where all are 1, so that nothing is computed twice."""

        low, high = (
            self.options.guidance
            if isinstance(self.options.guidance, tuple)
            else (self.options.guidance, self.options.guidance)
        )
        if low == high == 1:
            return None
        return low + (high - low) * torch.rand(count, generator=generator)

    @abstractmethod
    def setup(self, model: Model, data: Data | None) -> None:
        """Called once, before the first stage, with the loaded model and the data (None if the config has none)."""

    def evaluations_before(self, stages: Sequence[Stage]) -> int:
        """Evaluations that the work of `prepare` takes, if no run has done any of it before.

        Args:
            stages: the plan's.
        """
        return 0

    def prepare(
        self, stages: Sequence[Stage], student: Predictor, teacher: Teacher | None
    ) -> Sequence[Callable[[], None]]:
        """The work that is to be done before the first update, in parts that are done one after the other.

        Called once, after `setup` and before anything of the run is written; like the parts, without gradient and in
        the engine's precision. The networks are as they are when the run begins, also when it is resumed.

        Args:
            stages: the plan's.
            student: the network that is trained, on the engine's device.
            teacher: ready to predict; None in plain training.

        Raises:
            DistillkitError: the work cannot be done.
        """
        return ()

    def trial(self, folder: Path) -> Source:
        """One like it, not set up, to be timed: its work before the first update is little, and what it writes goes to
        `folder`."""
        return self

    @abstractmethod
    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Begin a stage: its grid is `path.grid(stage.steps)`, and every jump spans `stage.stride` of its steps."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> JumpBatch:
        """The next batch of jumps.

        All randomness must come from `generator` (on the CPU), which is the same in all processes: draw for
        `global_batch` samples, and keep this process's `distributed.shard`. So k processes with a batch of b do what
        one with k·b does.
        """

    def advance(self, z_next: torch.Tensor) -> None:
        """Told the target's `z_next`, [B, C, H, W]: trajectories go on from there."""

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """What a checkpoint must hold to go on in the middle of a stage; empty if nothing.

        Each tensor has this process's samples as its first dimension, [B, ...]; a checkpoint has those of all.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state_dict`; called after `start_stage`."""
