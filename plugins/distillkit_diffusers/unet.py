"""Pixel-space U-Nets (diffusers' `UNet2DModel`), unconditional or class-conditional."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.errors import DistillkitError
from distillkit.interfaces import Export, Model, Sampler

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distillkit.noise import Condition, TablePath


class Unet(Model):
    """A `UNet2DModel` wherever it comes from; a subclass's `load` gets it and calls `use`."""

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
        self.classes = embeddings if null_class is None else null_class

    def set_grid(self, spacing: str, start: int | str | None) -> None:
        """Set spacing and start of the path's grids; "auto" looks at what the network predicts."""
        from distillkit_diffusers import schedulers

        self.path = schedulers.with_grid(self.path, self.prediction, spacing, start)

    def forward(self, network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Call the U-Net."""
        output: Tensor = network(z, t, **inputs, return_dict=False)[0]
        return output

    def condition(self, labels: Tensor | None, count: int, guidance: Tensor | None = None) -> Condition:
        """Class labels, −1 meaning the null class; nothing for an unconditional network."""
        import torch

        from distillkit.noise import Condition

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
        return Condition({"class_labels": torch.where(labels < 0, null, labels)}, {"class_labels": null}, guidance)

    @property
    def sampler(self) -> Sampler:
        """Consistency where the scheduler is LCM's."""
        from distillkit_diffusers import schedulers

        return schedulers.sampler(self._scheduler)

    @property
    def supports_guidance(self) -> bool:
        """Whether there is a null class."""
        return self._null_class is not None

    def export(self, network: nn.Module, folder: Path, export: Export) -> None:
        """Write a pipeline folder: network, scheduler, model card; for a class-conditional one its pipeline class."""
        from distillkit_diffusers.export import write

        write(network, self._scheduler, self.path, self.prediction, self._null_class, folder, export)
