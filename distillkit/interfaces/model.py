"""The network, its noise path, its encoder and decoder, and how to save it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from distillkit.component import Component
from distillkit.errors import DistillkitError
from distillkit.interfaces.inventory import Inventory
from distillkit.interfaces.student import StudentTable
from distillkit.noise import Condition, NoisePath, PredictionType
from distillkit.solver import Scheduler

Sampler = Literal["ddim", "consistency"]
"""How a network is sampled: "ddim", or "consistency" (jump to clean data, add noise of the next time, jump again)."""


@dataclass(frozen=True)
class GuidanceInput:
    """A network's input for the guidance scale s (1 is none; Meng et al. write w = s − 1).

    Attributes:
        low, high: the range of scales that the network takes.
        new: whether the input's weights are still zero, so that the network does not know yet what it means.
    """

    low: float
    high: float
    new: bool


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a model once it is loaded. None of it changes afterwards.

    Attributes:
        label: the model's name in model cards and tables (its folder, say).
        path: the noise path, with the grids that the model's own scheduler has.
        prediction: what the network's output means.
        sample_shape: (C, H, W) of the samples that the network takes.
        classes: the number of classes that the network is conditioned on; None if it is unconditional.
        supports_guidance: whether there is a null condition, so that classifier-free guidance is possible.
        guidance_input: the network's input for the guidance scale; None if it has none. `Model.condition` then puts
            the scale among the network's inputs.
        guidance: the guidance scale s that its folder was saved for (1: none, or the folder does not say).
        sampler: how the model was made to be sampled, according to its scheduler.
        samplers: how a student made from it can be sampled: what the schedulers that `Model.export` writes can do.
        solvers: the schedulers of diffusers' with which the undistilled network can be sampled (`Model.solver`), the
            best in few steps first: unless a config names others, a teacher is scored with the first two, and DDIM.
        untrained: whether the weights are random: then there is no teacher to compare a student with.
    """

    label: str
    path: NoisePath
    prediction: PredictionType
    sample_shape: tuple[int, int, int]
    classes: int | None = None
    supports_guidance: bool = False
    guidance_input: GuidanceInput | None = None
    guidance: float = 1.0
    sampler: Sampler = "ddim"
    samplers: tuple[Sampler, ...] = ("ddim", "consistency")
    solvers: tuple[str, ...] = ()
    untrained: bool = False

    def with_grid(self, spacing: str, start: int | str | None) -> ModelSpec:
        """The same with the grids of a config's `[grid]` on its path.

        Raises:
            DistillkitError: the path has no such grids.
        """
        return replace(self, path=self.path.with_grid(spacing, start, self.prediction))

    def before_training(self, condition: Condition) -> Condition:
        """A condition for the network as it was loaded: while its input for the guidance scale is new, guidance is
        mixed from two predictions."""
        taken = self.guidance_input
        return condition.mixed() if taken is not None and taken.new else condition


@dataclass(frozen=True)
class Export:
    """What an exported pipeline must state about itself, besides its weights.

    Attributes:
        path: the noise path, with the grids that the network was trained on.
        steps: the number of sampling steps that it was made for.
        served: every number of steps that it was evaluated at.
        guidance: the guidance scale s that it was made for (1 is none).
        method: the method that made it (a preset's name).
        teacher: the label of the model that it was made from.
        scores: rows of scores.json.
        settings: the resolved config.
        sampler: how it is sampled, which the pipeline's scheduler must do.
        baked: the guidance scale s that it has inside, so that it is called without guidance; None if it has none.
        several: every number of steps that the folder must serve, if it is more than one; only with `Model.step_input`.
    """

    path: NoisePath
    steps: int
    served: Sequence[int]
    guidance: float
    method: str
    teacher: str
    scores: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    sampler: Sampler = "ddim"
    baked: float | None = None
    several: Sequence[int] = ()


class Model(Component):
    """The network that a run starts from, and the frozen parts that it needs (an autoencoder, say).

    Images are [B, C, H, W] with values in [−1, 1]; samples are what the network takes, [B, *spec.sample_shape].
    """

    network: torch.nn.Module
    """The network, float32, on the CPU. Set by `load`."""
    spec: ModelSpec
    """What is known of the model. Set by `load`."""
    step_input: bool = False
    """Optional. Whether the network takes the step size: then `forward` gets it among `inputs` as "step_size", [B], in
    (0, 1]. Until it is trained, the input must change no output. Known before `load`."""

    @abstractmethod
    def load(self) -> None:
        """Load or build the network, and set `network` and `spec`. Called once, before every method below.

        Raises:
            DistillkitError: the model is not there, or not what this class can load.
        """

    @abstractmethod
    def forward(
        self, network: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Call a network: z [B, C, H, W], t [B] -> output [B, C, H, W].

        Args:
            network: this model's, or a copy of it.
            z: noisy samples.
            t: their times on the noise path.
            inputs: the further inputs that `condition` made, each [B, …].
        """

    @abstractmethod
    def condition(self, labels: torch.Tensor | None, count: int, guidance: torch.Tensor | None = None) -> Condition:
        """The condition for `count` samples.

        Args:
            labels: classes, [count] (int64), −1 for "no class"; None for a network without classes.
            guidance: guidance scales s, [count]; None for no guidance.

        Raises:
            DistillkitError: the network does not know a label, or cannot be guided.
        """

    @abstractmethod
    def export(self, network: torch.nn.Module, folder: Path, export: Export) -> None:
        """Write a trained network (float32, on the CPU) as a pipeline that diffusers loads without distillkit.

        The folder does not exist yet. It is renamed to its final path once it is complete.
        An adapter is fused: its product is added to the weights, in place, as nothing else uses `network`.
        """

    @classmethod
    def opened(cls, folder: Path, table: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Optional. The `[model]` table that loads what `export` wrote, with this model or another one ("diffusers").

        Without it, the result of a run cannot be sampled or evaluated, and no further phase can begin with it. Called
        before the folder exists, too. Must not import torch.

        Args:
            folder: where `export` wrote it.
            table: the `[model]` table of the run, with all options.
        """
        return None

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Optional. Images -> samples, without a gradient; by default the images themselves (pixel space)."""
        return images

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Optional. Samples -> images, on the samples' device; by default the samples themselves (pixel space)."""
        return samples

    def solver(self, name: str, steps: int, path: NoisePath) -> Scheduler:
        """Optional, with `ModelSpec.solvers`. A new scheduler, set to `steps` steps; each step is one evaluation.

        Args:
            name: one of `spec.solvers`.
            steps: the number of steps.
            path: the run's noise path. The scheduler begins where its grids begin.
        """
        raise NotImplementedError

    def inventory(self, student: StudentTable | None = None) -> Inventory | None:
        """Optional. What the model's files say before `load`, for this `[student]`; None: unknown. Imports no torch."""
        return None

    def most_steps(self) -> int | None:
        """Optional. The most steps that a grid of the noise path has; None if any number, or if that is not known.

        Asked before `load`. Must not import torch.
        """
        return None

    def can_take_guidance_input(self) -> bool | None:
        """Optional. Whether an option can give the network a new input for the guidance scale. Must not import torch.

        None if that is not known before `load`; after it, None means no."""
        return None

    def has_grid(self, spacing: str, start: int | str = "auto") -> bool | None:
        """Optional. Whether the noise path has the grids of such a `[grid]`; None: unknown. Must not import torch."""
        return None

    def can_export(self, spacing: str) -> bool | None:
        """Optional. Whether the exported pipeline can sample on grids with this `grid.spacing`; None: unknown."""
        return None

    def add_guidance_input(self, low: float, high: float) -> None:
        """Optional. Give the network an input for guidance scales, without effect yet, and set `spec.guidance_input`.

        Called after `load`, if the student is taught several scales and the network has no such input.
        """
        raise DistillkitError(
            f"source.guidance: the model '{self.name}' cannot be told which of several scales it samples with; give one"
        )

    def adapt(self, student: StudentTable) -> None:
        """Optional. Give the network an adapter; from then on only the adapter's weights need a gradient.

        Called after `load`, if the config has a `[student]`. Until the adapter is trained, the network's outputs must
        stay the same to the bit.

        Raises:
            DistillkitError: the model takes no adapter, or not this one.
        """
        raise DistillkitError(f"student: the model '{self.name}' takes no adapter; leave out [student]")

    def read_student(self, folder: Path) -> Mapping[str, torch.Tensor]:
        """Optional. The weights of a student that was exported, for `student.start`, which is refused without this.

        Called when `network` is as it will be trained. Nothing but these weights is loaded.

        Args:
            folder: the pipeline. If the network has an adapter, one is in the folder lora/ beside it, as
                `export_adapter` wrote it.

        Returns:
            all weights of `network` that require a gradient, by its names, float32, on the CPU.

        Raises:
            DistillkitError: they are not there, or are not of such a network.
        """
        raise NotImplementedError

    def export_adapter(self, network: torch.nn.Module, folder: Path) -> None:
        """Optional, with `adapt`. Write the adapter of `network` (float32, on the CPU) alone, before `export`."""
        raise NotImplementedError
