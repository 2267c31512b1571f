"""Pixel-space U-Nets (diffusers' `UNet2DModel`), unconditional or class-conditional."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from distillkit.errors import DistillkitError
from distillkit.interfaces import Export, GuidanceInput, Model, Sampler, StudentTable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distillkit.noise import Condition, TablePath


Scale = Annotated[float, Field(ge=0)]


def rises(bounds: tuple[float, float]) -> tuple[float, float]:
    """Two different bounds, the lower first."""
    if bounds[0] >= bounds[1]:
        raise ValueError("must be [low, high], the lower first")
    return bounds


class Unet(Model):
    """A `UNet2DModel` wherever it comes from; a subclass's `load` gets it and calls `use`."""

    class Options(Model.Options):
        """
        Attributes:
            guidance_input: give the network an input for the guidance scale s, and these scales, [low, high], to be
                told (Meng et al. 2023, where w = s − 1). It needs a null class, and the preset "guided" to learn what
                the input means. A network that has the input keeps it.
        """

        guidance_input: Annotated[tuple[Scale, Scale], AfterValidator(rises)] | None = None

    options: Options
    path: TablePath

    def use(
        self,
        network: nn.Module,
        scheduler: dict[str, Any],
        null_class: int | None,
        cosine: tuple[float, float] | None = None,
    ) -> None:
        """Take a network and derive everything else.

        Args:
            network: float32, on the CPU.
            scheduler: its noise schedule, as in scheduler_config.json.
            null_class: the class that means "no class"; None if it has none.
            cosine: λ_min and λ_max of the cosine path that takes the place of the schedule's β; None if none does.

        Raises:
            DistillkitError: they do not fit together.
        """
        from distillkit_diffusers import networks, schedulers

        self.network = network
        self._config = config = networks.config(self.network)
        self._scheduler = scheduler if cosine is None else schedulers.with_cosine(scheduler, cosine)
        self.path, self.prediction = schedulers.read(self._scheduler, cosine)
        self.sample_shape = networks.sample_shape(config)
        networks.check(config)
        embeddings = config["num_class_embeds"]
        if null_class is not None and (embeddings is None or null_class != embeddings - 1):
            raise DistillkitError(
                f"model.null_class: {null_class}; expected the network's last class, {embeddings - 1}"
                if embeddings
                else f"model.null_class: {null_class}; the network has no classes"
            )
        self._null_class = null_class
        self._use_guidance_input(self.options.guidance_input)
        self.classes = embeddings if null_class is None else null_class

    def _use_guidance_input(self, wanted: tuple[float, float] | None) -> None:
        """Read the network's input for the guidance scale, or give it the one that is wanted."""
        from distillkit_diffusers import networks

        found = self._config.get("guidance_range")
        self._guidance_input = GuidanceInput(found[0], found[1], new=False) if found else None
        if (wanted or found) and self._null_class is None:
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
            self._guidance_input = GuidanceInput(wanted[0], wanted[1], new=True)

    def adapt(self, student: StudentTable) -> None:
        """Give the U-Net a LoRA."""
        from distillkit_diffusers import lora

        lora.add(self.network, student)

    def set_grid(self, spacing: str, start: int | str | None) -> None:
        """Set spacing and start of the path's grids; "auto" looks at what the network predicts."""
        from distillkit_diffusers import schedulers

        self.path = schedulers.with_grid(self.path, self.prediction, spacing, start)

    def forward(self, network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Call the U-Net."""
        output: Tensor = network(z, t, **inputs, return_dict=False)[0]
        return output

    def condition(self, labels: Tensor | None, count: int, guidance: Tensor | None = None) -> Condition:
        """Class labels, −1 meaning the null class; nothing for an unconditional network. The scale, if it is told."""
        import torch

        from distillkit.noise import GUIDANCE, Condition

        if guidance is not None and not self.supports_guidance:
            raise DistillkitError(
                "guidance: the model has no null class, which guidance compares with; set guidance to 1, or name it "
                "in model.null_class"
            )
        if self.classes is None:
            return Condition()
        if labels is None:
            labels = torch.full((count,), -1)
        if labels.max() >= self._config["num_class_embeds"]:
            raise DistillkitError(f"class {int(labels.max())}: the model has classes 0 to {self.classes - 1}")
        if self._null_class is None:
            if labels.min() < 0:
                raise DistillkitError("the model has no null class, and a sample has no label; see model.null_class")
            return Condition({"class_labels": labels})
        null = torch.full_like(labels, self._null_class)
        labels = torch.where(labels < 0, null, labels)
        told = self._guidance_input
        if told is None:
            return Condition({"class_labels": labels}, {"class_labels": null}, guidance)
        scales = torch.ones(count) if guidance is None else guidance
        low, high = scales.min().item(), scales.max().item()
        if low < told.low or high > told.high:
            raise DistillkitError(
                f"guidance: the network takes the scales from {told.low:g} to {told.high:g} as an input (got "
                f"{low if low < told.low else high:g}); ask for one of them"
            )
        return Condition({"class_labels": labels, GUIDANCE: scales}, {"class_labels": null, GUIDANCE: scales})

    @property
    def sampler(self) -> Sampler:
        """Consistency where the scheduler is LCM's."""
        from distillkit_diffusers import schedulers

        return schedulers.sampler(self._scheduler)

    @property
    def supports_guidance(self) -> bool:
        """Whether there is a null class."""
        return self._null_class is not None

    @property
    def guidance_input(self) -> GuidanceInput | None:
        """As the network's config says, or `model.guidance_input`."""
        return self._guidance_input

    def export(self, network: nn.Module, folder: Path, export: Export) -> None:
        """Write a pipeline folder: network, scheduler, model card; for a class-conditional one its pipeline class."""
        from distillkit_diffusers import lora
        from distillkit_diffusers.export import write

        lora.fuse(network)
        write(network, self._scheduler, self.path, self.prediction, self._null_class, folder, export)

    def export_adapter(self, network: nn.Module, folder: Path) -> None:
        """Write the LoRA as diffusers' loaders take it."""
        from distillkit_diffusers import lora

        lora.write(network, "unet", folder)
