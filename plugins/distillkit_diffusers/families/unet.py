"""Pixel-space U-Nets (DDPM, DDIM), and the base class of the families of diffusers' `UNet2DModel`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Export, GuidanceInput
from distillkit_diffusers import networks, pipelines
from distillkit_diffusers.export import CLASS_CONDITIONAL, UNCONDITIONAL, model_card, save
from distillkit_diffusers.families.family import Family
from distillkit_diffusers.families.table import TableFamily
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.reading import read_json
from distillkit_diffusers.times import Sampling, has_own

LEVELS = 4
"""The number of levels of diffusers' default `UNet2DModel`."""


def _check_size(key: str, where: str, size: Sequence[int], levels: int) -> Iterator[Mistake]:
    """Mistakes in (H, W) of a `UNet2DModel`'s samples: its lower levels have whole halves of them."""
    multiple = 1 << max(levels - 1, 0)
    if any(length < 1 or length % multiple for length in size):
        yield Mistake(
            key,
            f"{where}sample_size is {' × '.join(map(str, size))}; expected multiples of {multiple}, as the network "
            f"has {levels} levels (block_out_channels)",
        )


class Unet2D(Family):
    """A `UNet2DModel`, unconditional or class-conditional; a subclass reads its noise path."""

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"unet": ("UNet2DModel", "GuidedUNet2DModel")}

    def check(self) -> Iterator[Mistake]:
        """Adds mistakes in the size of a new network's samples."""
        yield from super().check()
        config = self.options.network
        if config is not None:
            size, channels = config.get("sample_size"), config.get("block_out_channels", (0,) * LEVELS)
            sizes: list[Any] = size if isinstance(size, list) else [size]
            if isinstance(channels, list | tuple) and all(isinstance(length, int) for length in sizes):
                yield from _check_size("network", "", sizes, len(channels))

    def check_size(self, folder: PipelineFolder) -> Iterator[Mistake]:
        """See the base class."""
        config = folder.part("unet") / "config.json"
        if config.is_file() and (size := folder.sample_size("unet")) is not None:
            yield from _check_size("path", f"{config}: ", size, folder.levels("unet", LEVELS))

    def load(self) -> None:
        """Load or build the network, and set the other attributes from its config and the scheduler's."""
        options, folder = self.options, self.folder
        if folder is None:
            self.network, null_class = networks.build(options.network or {}), options.null_class
        else:
            self.network = networks.load_unet(folder.weights("unet"))
            null_class = folder.null_class() if options.null_class is None else options.null_class
        self.scheduler = self.scheduler_config()
        self._config = config = networks.config(self.network)
        self.read_scheduler()
        self.sample_shape = networks.sample_shape(config)
        networks.check(config)
        embeddings = config["num_class_embeds"]
        if null_class is not None and (embeddings is None or null_class != embeddings - 1):
            raise DistillkitError(
                f"model.null_class: {null_class}; expected the network's last class, {embeddings - 1}"
                if embeddings
                else f"model.null_class: {null_class}; the network has no classes"
            )
        self.null_class = null_class
        self._use_guidance_input(self.options.guidance_input)
        self.classes = embeddings if null_class is None else null_class

    @abstractmethod
    def read_scheduler(self) -> None:
        """Set `path` and `prediction` from `scheduler`."""

    def _use_guidance_input(self, wanted: tuple[float, float] | None) -> None:
        """Read the network's input for the guidance scale, or add the one that is wanted."""
        found = self._config.get("guidance_range")
        self.guidance_input = GuidanceInput(found[0], found[1], new=False) if found else None
        if (wanted or found) and self.null_class is None:
            has = "no classes" if self._config["num_class_embeds"] is None else "no null class (see model.null_class)"
            raise DistillkitError(
                f"model.guidance_input: the network has {has}; guidance compares a class with the null class"
            )
        if wanted and found and tuple(found) != wanted:
            raise DistillkitError(
                f"model.guidance_input: [{wanted[0]:g}, {wanted[1]:g}]; the network takes the scales "
                f"[{found[0]:g}, {found[1]:g}] already: leave it out"
            )
        if wanted and not found:
            self.network = networks.with_guidance_input(self.network, wanted)
            self.guidance_input = GuidanceInput(wanted[0], wanted[1], new=True)

    def export(self, network: torch.nn.Module, folder: Path, export: Export) -> None:
        """Write a pipeline; for a class-conditional network with the classes that diffusers lacks."""
        scheduler, sampling = self.write_scheduler(export)
        if self.classes is None:
            pipeline = self.unconditional(network, scheduler)
            save(pipeline, folder, model_card(export, pipeline, UNCONDITIONAL, sampling))
            return
        taken = networks.config(network).get("guidance_range")
        pipeline = pipelines.class_conditional.ClassConditionalPipeline(
            network, scheduler, export.steps, export.guidance, self.null_class, sampling.by_steps()
        )
        save(pipeline, folder, model_card(export, pipeline, CLASS_CONDITIONAL, sampling, taken))

    def can_export(self, spacing: str) -> bool:
        """For networks with classes, as the pipeline that the folder brings hands its scheduler the times."""
        folder = self.folder
        config = (self.options.network or {}) if folder is None else read_json(folder.part("unet") / "config.json")
        return not has_own(spacing) or config.get("num_class_embeds") is not None

    @abstractmethod
    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """The scheduler for an export, and its description for the model card."""

    @abstractmethod
    def unconditional(self, network: torch.nn.Module, scheduler: Any) -> Any:
        """A pipeline of diffusers' for an unconditional network."""


class Pixel(TableFamily, Unet2D):
    """A `UNet2DModel` of a pipeline, by itself, or a new one built from a config."""

    takes = frozenset({"network", "cosine", "null_class", "guidance_input"})

    def unconditional(self, network: torch.nn.Module, scheduler: Any) -> Any:
        """DDIMPipeline or DDPMPipeline."""
        # DDIMPipeline converts any scheduler to DDIM; DDPMPipeline keeps the one that it gets.
        stock = diffusers.DDIMPipeline if isinstance(scheduler, diffusers.DDIMScheduler) else diffusers.DDPMPipeline
        return stock(network, scheduler)
