"""Class-conditional latent diffusion: a `UNet2DConditionModel` that sees an embedding of the class, as in cin256-v2.

diffusers has no pipeline for it. `pipelines/class_latent.py` is ours, and each folder brings it along.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import diffusers
import torch

from distillkit.errors import DistillkitError
from distillkit.interfaces import Export
from distillkit.noise import Condition
from distillkit_diffusers import card, networks
from distillkit_diffusers.autoencoder import Autoencoder
from distillkit_diffusers.export import save
from distillkit_diffusers.families.labels import class_condition
from distillkit_diffusers.families.table import TableFamily


class ClassLatent(TableFamily):
    """The U-Net is distilled on latents. The classes' embedding and the autoencoder stay as they came."""

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "unet": ("UNet2DConditionModel",),
        "class_embedder": ("ClassEmbedder",),
        "vqvae": ("VQModel",),
    }
    takes = frozenset({"cosine", "null_class", "scaling_factor"})

    def load(self) -> None:
        """Load the three, and see that they fit."""

        from distillkit_diffusers.pipelines.class_embedder import ClassEmbedder

        options, folder = self.options, self.folder
        assert folder is not None  # a new network is in pixel space
        self.network = networks.load(folder.part("unet"), diffusers.UNet2DConditionModel)
        config = networks.config(self.network)
        networks.check(config)
        self.sample_shape = networks.sample_shape(config)
        self.scheduler = folder.scheduler_config() | options.scheduler
        self.read_scheduler()
        self.autoencoder = Autoencoder.load(folder.part("vqvae"), options.scaling_factor)
        if (channels := self.autoencoder.channels) != self.sample_shape[0]:
            raise DistillkitError(
                f"model.path: the autoencoder in {folder.part('vqvae')} makes latents of {channels} channels, and the "
                f"U-Net takes {self.sample_shape[0]}"
            )
        self._embedder = networks.load_frozen(folder.part("class_embedder"), ClassEmbedder)
        embedded = networks.config(self._embedder)
        if (width := embedded["width"]) != config["cross_attention_dim"]:
            raise DistillkitError(
                f"model.path: the embedding in {folder.part('class_embedder')} is {width} wide, and the U-Net takes "
                f"{config['cross_attention_dim']}"
            )
        self._embeddings: int = embedded["num_classes"]
        self._null_class = folder.null_class() if options.null_class is None else options.null_class
        if self._null_class not in (None, self._embeddings - 1):
            raise DistillkitError(
                f"model.null_class: {self._null_class}; expected the embedding's last class, {self._embeddings - 1}"
            )
        self.classes = self._embeddings if self._null_class is None else self._null_class

    def condition(self, labels: torch.Tensor | None, count: int, guidance: torch.Tensor | None = None) -> Condition:
        """The embeddings of classes, [count, 1, D], −1 meaning the null class."""

        @torch.no_grad()
        def embed(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"encoder_hidden_states": self._embedder(inputs["class_labels"])}

        found = class_condition(labels, count, guidance, self._embeddings, self._null_class)
        return Condition(embed(found.inputs), found.null and embed(found.null), found.guidance)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images -> latents, not quantised."""
        return self.autoencoder.encode(images)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Latents -> quantised, and decoded."""
        return self.autoencoder.decode(samples)

    @property
    def supports_guidance(self) -> bool:
        """Whether there is a null class."""
        return self._null_class is not None

    def export(self, network: torch.nn.Module, folder: Path, export: Export) -> None:
        """Write a folder with the two classes that diffusers has not."""
        from distillkit_diffusers.pipelines import class_embedder, class_latent

        scheduler, sampling = self.write_scheduler(export)
        pipeline = class_latent.ClassLatentPipeline(
            self.autoencoder.network,
            network,
            self._embedder,
            scheduler,
            export.steps,
            export.guidance,
            self._null_class,
        )
        shipped = {"": class_latent, "class_embedder": class_embedder}
        save(pipeline, folder, card.model_card(export, pipeline, card.CLASS_CONDITIONAL, sampling), shipped)
