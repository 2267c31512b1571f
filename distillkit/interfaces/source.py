"""Where z_t comes from: sources, and the data sets that some of them draw from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field

from distillkit import distributed
from distillkit.component import Component
from distillkit.errors import DistillkitError
from distillkit.interfaces.model import Model
from distillkit.interfaces.schedule import Stage
from distillkit.interfaces.target import JumpBatch, RunHooks, Teacher
from distillkit.noise import Predictor

Scale = Annotated[float, Field(ge=0)]


def _rises(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("must be [low, high], the lower first")
    return bounds


class Data(Component):
    """A set of images."""

    @abstractmethod
    def setup(self) -> None:
        """Open or read the images. Called once.

        Raises:
            DistillkitError: there are none, or they cannot be read.
        """

    @property
    @abstractmethod
    def classes(self) -> int | None:
        """How many classes the labels are of, counted from 0; None without labels. Known once it is set up."""

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, C, H, W] in [−1, 1] (float32) and labels [B] (int64; None if there are none) at indices [B]."""

    def check_shape(self, model: Model) -> None:
        """Once both are set up: the images must be as large as what the model makes.

        Raises:
            DistillkitError: they are not.
        """
        images, _ = self.batch(torch.tensor([0]))
        if (found := tuple(model.encode(images).shape[1:])) != tuple(model.spec.sample_shape):
            raise DistillkitError(
                f"data: the images of '{self.name}' make samples of {found} (channels, height, width), and the model "
                f"takes {tuple(model.spec.sample_shape)}; give it images of its own size"
            )


class Source(RunHooks):
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

    @abstractmethod
    def setup(self, model: Model, data: Data | None) -> None:
        """Called once, before the first stage, with the loaded model and the data (None if the config has none)."""

    def draw_guidance(self, count: int, generator: torch.Generator) -> torch.Tensor | None:
        """Guidance scales for `count` samples, [count]; None where all are 1, so that nothing is computed twice."""
        guidance = self.options.guidance
        low, high = guidance if isinstance(guidance, tuple) else (guidance, guidance)
        if low == high == 1:
            return None
        return low + (high - low) * torch.rand(count, generator=generator)

    @abstractmethod
    def draw(self, generator: torch.Generator) -> JumpBatch:
        """The next batch of jumps.

        All randomness must come from `generator` (on the CPU), which is the same in all processes: draw for
        `global_batch` samples, and keep this process's `shard`. So k processes with a batch of b do what
        one with k·b does.
        """

    def advance(self, z_next: torch.Tensor) -> None:
        """Optional. Takes the target's `z_next`, [B, C, H, W]: trajectories go on from there."""


class PrecomputingSource(Source):
    """A source that asks the undistilled teacher for something before the first update."""

    @abstractmethod
    def evaluations_before(self, stages: Sequence[Stage]) -> int:
        """Evaluations that the work of `prepare` takes, if no run has done any of it before."""

    @abstractmethod
    def prepare(
        self, stages: Sequence[Stage], student: Predictor, teacher: Teacher | None
    ) -> Sequence[Callable[[], None]]:
        """The work that is left to do before the first update, in parts that are done one after the other.

        Called once, after `setup` and before anything of the run is written; like the parts, without gradient and in
        the engine's precision. The networks are as they are when the run begins, also when it is resumed.

        Args:
            stages: the plan's.
            student: the network that is trained, on the engine's device.
            teacher: ready to predict; None in plain training.

        Raises:
            DistillkitError: the work cannot be done.
        """

    @abstractmethod
    def trial(self, folder: Path) -> PrecomputingSource:
        """A source with the same options that precomputes little and writes into `folder`, for `plan --measure`."""
