"""The base class of the families of pipelines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Export, GuidanceInput, Inventory, Sampler, StudentTable
from distillkit.noise import GUIDANCE, Condition, NoisePath, PredictionType
from distillkit.solver import Scheduler
from distillkit_diffusers import candidates, schedulers
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.options import DiffusersOptions
from distillkit_diffusers.reading import read_json
from distillkit_diffusers.scheduler_fields import Fields

SCALE_KEYS = ("guidance_embeds", "guidance_range", "time_cond_proj_dim")
"""The keys in a network's config that give it an input for the guidance scale."""


class Family(ABC):
    """Loads, calls and exports one kind of pipeline. `FamilyModel` makes a `Model` of it.

    `check` and `inventory` read only JSON and the headers of files. `load` sets the attributes below. Parts that are
    not trained (an autoencoder, text encoders) are loaded frozen, in evaluation mode, and are exported unchanged.

    Args:
        options: the model's options.
        folder: the folder of the pipeline; None for a new network.
    """

    parts: ClassVar[Mapping[str, tuple[str, ...]]]
    """The required parts with weights: the names of their folders, and the classes that each may have."""
    distilled: ClassVar[str] = "unet"
    """The part whose network is distilled."""
    takes: ClassVar[frozenset[str]] = frozenset()
    """The options that this family uses, besides `path` and `scheduler`."""

    network: torch.nn.Module
    """The network that is distilled, float32, on the CPU."""
    scheduler: dict[str, Any]
    """The scheduler's config, updated with the option `scheduler`."""
    path: NoisePath
    prediction: PredictionType
    sample_shape: tuple[int, int, int]
    classes: int | None = None
    """The number of classes, without the null class; None for an unconditional network."""
    null_class: int | None = None
    """The class that means "no class", which is the network's last one; None if it has none."""
    guidance_input: GuidanceInput | None = None
    """See `ModelSpec.guidance_input`."""

    def __init__(self, options: DiffusersOptions, folder: PipelineFolder | None) -> None:
        self.options = options
        self.folder = folder

    @property
    def saved(self) -> PipelineFolder:
        """The folder, in a family that builds no new networks.

        Raises:
            DistillkitError: there is none.
        """
        if self.folder is None:
            raise DistillkitError(f"model.path: is required: {type(self).__name__} builds no new networks")
        return self.folder

    def check(self) -> Iterator[Mistake]:
        """Mistakes in the options, and in the folder's files before they are loaded. Keys are names of options."""
        known = {"path", "scheduler", "step_input"} | ({"variant", "subfolder"} if self.folder else set())
        for name in sorted(self.options.model_fields_set - self.takes - known):
            if getattr(self.options, name) is not None:
                yield Mistake(name, f"means nothing to {self.what}; leave it out")
        if self.folder is not None:
            for part, classes in self.parts.items():
                yield from self.folder.check_network(part, classes)
            try:
                yield from self.check_size(self.folder)
            except DistillkitError as error:
                yield Mistake("path", str(error))
            yield from self.folder.check_scheduler(bool(self.options.scheduler))

    def check_scheduler(self, config: Mapping[str, Any], supported: tuple[Fields, ...]) -> Iterator[Mistake]:
        """Mistakes in a scheduler's config, whose class must be one of those that are supported."""
        file = None if self.folder is None else self.folder.scheduler_file
        yield from schedulers.check(config, self.options.scheduler, supported, file)

    def scheduler_config(self) -> dict[str, Any]:
        """The folder's scheduler config, updated with the option `scheduler`."""
        return (self.folder.scheduler_config() if self.folder else {}) | self.options.scheduler

    @property
    def what(self) -> str:
        """The name of the pipeline's class, for error messages."""
        pipeline = self.folder and (self.folder.pipeline_class or self.folder.network_class)
        return pipeline or "a new network"

    def inventory(self, student: StudentTable | None) -> Inventory | None:
        """See `Model.inventory`; None for a new network, which has no files."""
        folder = self.folder
        if folder is None:
            return None
        size = self.latent_size(folder)
        return Inventory(
            what=str(folder.pipeline_class or folder.network_class),
            parameters=folder.parameters(self.distilled),
            # Text encoders are freed before training begins.
            frozen=sum(
                folder.parameters(part)
                for part in self.parts
                if part != self.distilled and not part.startswith("text_encoder")
            ),
            size=size and size[0] * size[1],
            guidance=self.default_guidance(folder),
            adapter=0 if student is None else folder.adapter_parameters(self.distilled, student),
            encoders=sum(folder.weights(part).bytes for part in self.parts if part.startswith("text_encoder")),
            others="" if folder.subfolder else candidates.others(folder.part(self.distilled)),
            guidance_input=any(read_json(folder.part(self.distilled) / "config.json").get(key) for key in SCALE_KEYS),
        )

    def check_size(self, folder: PipelineFolder) -> Iterator[Mistake]:
        """Mistakes in the size of the samples, before the network is loaded.

        Raises:
            DistillkitError: a config gives none.
        """
        if (folder.part(self.distilled) / "config.json").is_file():
            folder.sample_size(self.distilled)
        return iter(())

    def most_steps(self) -> int | None:
        """See `Model.most_steps`."""
        return None

    def latent_size(self, folder: PipelineFolder) -> tuple[int, int] | None:
        """(H, W) of the samples that the network takes, before it is loaded; None if the files do not say."""
        return folder.sample_size(self.distilled)

    def default_guidance(self, folder: PipelineFolder) -> float:
        """The guidance scale that the pipeline uses by default: the one it was saved with, or 1 (none)."""
        return folder.guidance

    def has_grid(self, spacing: str, start: int | str) -> bool:
        """See `Model.has_grid`."""
        return True

    def can_export(self, spacing: str) -> bool:
        """See `Model.can_export`."""
        return True

    @abstractmethod
    def load(self) -> None:
        """Load or build all parts. Called once.

        Raises:
            DistillkitError: a part cannot be loaded, or the parts do not fit together.
        """

    def forward(
        self, network: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Call the network: z [B, C, H, W], t [B] -> output [B, C, H, W]."""
        output: torch.Tensor = network(z, t, **inputs, return_dict=False)[0]
        return output

    def condition(self, labels: torch.Tensor | None, count: int, guidance: torch.Tensor | None = None) -> Condition:
        """`class_labels`, and the scale if the network takes it; empty for an unconditional network.

        See `Model.condition`. Labels None: the null class for all.
        """
        if guidance is not None and self.null_class is None:
            raise DistillkitError(
                "guidance: the model has no null class, which guidance compares with; set guidance to 1, or name it "
                "in model.null_class"
            )
        if self.classes is None:
            return Condition()
        if labels is None:
            labels = torch.full((count,), -1)
        if labels.max() >= self.classes + self.supports_guidance:
            raise DistillkitError(f"class {int(labels.max())}: the model has classes 0 to {self.classes - 1}")
        if self.null_class is None:
            if labels.min() < 0:
                raise DistillkitError("the model has no null class, and a sample has no label; see model.null_class")
            return Condition({"class_labels": labels})
        null = torch.full_like(labels, self.null_class)
        inputs, nulls = {"class_labels": torch.where(labels < 0, null, labels)}, {"class_labels": null}
        return with_scales(Condition(inputs, nulls), self.guidance_input, count, guidance)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images in [−1, 1] -> samples [B, C, H, W]."""
        return images

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Samples [B, C, H, W] -> images in about [−1, 1], on the samples' device."""
        return samples

    @property
    def supports_guidance(self) -> bool:
        """Whether there is a null condition."""
        return self.null_class is not None

    samplers: ClassVar[tuple[Sampler, ...]] = ("ddim", "consistency")
    """See `ModelSpec.samplers`."""

    @property
    def sampler(self) -> Sampler:
        """See `ModelSpec.sampler`."""
        return "ddim"

    solvers: ClassVar[tuple[str, ...]]
    """See `ModelSpec.solvers`."""

    @abstractmethod
    def solver(self, name: str, steps: int, path: NoisePath) -> Scheduler:
        """See `Model.solver`."""

    @abstractmethod
    def export(self, network: torch.nn.Module, folder: Path, export: Export) -> None:
        """See `Model.export`."""


def with_scales(
    condition: Condition, taken: GuidanceInput | None, count: int, guidance: torch.Tensor | None
) -> Condition:
    """Add guidance to a condition without it: as an input, if the network takes the scale as one.

    Args:
        condition: the condition.
        taken: the input; None if the network has none.
        count: the number of samples.
        guidance: scales, [count]; None: no guidance, which is a scale of 1.

    Raises:
        DistillkitError: a scale is outside the input's range.
    """
    if taken is None:
        return replace(condition, guidance=guidance)
    scales = torch.ones(count) if guidance is None else guidance
    # In float32, as the scales are.
    outside = (scales < taken.low) | (scales > taken.high)
    if outside.any():
        raise DistillkitError(
            f"guidance: the network takes the scales from {taken.low:g} to {taken.high:g} as an input (got "
            f"{scales[outside][0].item():g}); ask for one of them"
        )
    return Condition({**condition.inputs, GUIDANCE: scales}, {**(condition.null or {}), GUIDANCE: scales})
