"""Latent diffusion without text: U-Nets on the latents of a `VQModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch

from distillkit.errors import DistillkitError
from distillkit.interfaces import Export
from distillkit.noise import Condition
from distillkit_diffusers import networks, pipelines
from distillkit_diffusers.export import CLASS_CONDITIONAL, model_card, save
from distillkit_diffusers.families.table import TableFamily
from distillkit_diffusers.families.unet import Pixel
from distillkit_diffusers.frozen import Autoencoder


class Latent(Pixel):
    """LDMPipeline: an unconditional `UNet2DModel` on the latents of a `VQModel`."""

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"unet": ("UNet2DModel",), "vqvae": ("VQModel",)}
    takes = frozenset({"cosine", "scaling_factor"})

    def load(self) -> None:
        """Load the U-Net and the autoencoder."""
        super().load()
        self.autoencoder = Autoencoder.load(self.saved.weights("vqvae"), self.options.scaling_factor)
        if (channels := self.autoencoder.channels) != self.sample_shape[0]:
            raise DistillkitError(
                f"model.path: the autoencoder in {self.saved.part('vqvae')} makes latents of {channels} channels, and "
                f"the U-Net takes {self.sample_shape[0]}"
            )
        if self.classes is not None:
            raise DistillkitError(
                f"model.path: the U-Net in {self.saved.part('unet')} takes {self.classes} classes, which an "
                "LDMPipeline cannot give it"
            )

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images -> latents, before quantisation."""
        return self.autoencoder.encode(images)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Latents -> images, after quantisation."""
        return self.autoencoder.decode(samples)

    def unconditional(self, network: torch.nn.Module, scheduler: Any) -> Any:
        """An LDMPipeline. The autoencoder is unchanged, except for a scaling factor that its config lacked."""
        return diffusers.LDMPipeline(self.autoencoder.network, network, scheduler)


class ClassLatent(TableFamily):
    """A `UNet2DConditionModel` on latents that attends to the embedding of a class, as in CompVis' cin256-v2.

    diffusers has no pipeline for it; an exported folder brings `pipelines/class_conditional.py` along.
    """

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "unet": ("UNet2DConditionModel",),
        "class_embedder": ("ClassEmbedder",),
        "vqvae": ("VQModel",),
    }
    takes = frozenset({"cosine", "null_class", "scaling_factor"})

    def load(self) -> None:
        """Load the three parts, and check that they fit together."""
        options, folder = self.options, self.saved
        self.network = networks.load(folder.weights("unet"), diffusers.UNet2DConditionModel)
        config = networks.config(self.network)
        networks.check(config)
        self.sample_shape = networks.sample_shape(config)
        self.scheduler = self.scheduler_config()
        self.read_scheduler()
        self.autoencoder = Autoencoder.load(folder.weights("vqvae"), options.scaling_factor)
        if (channels := self.autoencoder.channels) != self.sample_shape[0]:
            raise DistillkitError(
                f"model.path: the autoencoder in {folder.part('vqvae')} makes latents of {channels} channels, and the "
                f"U-Net takes {self.sample_shape[0]}"
            )
        self._embedder = networks.load_frozen(folder.weights("class_embedder"), pipelines.class_embedder.ClassEmbedder)
        embedded = networks.config(self._embedder)
        if (width := embedded["width"]) != config["cross_attention_dim"]:
            raise DistillkitError(
                f"model.path: the embedding in {folder.part('class_embedder')} is {width} wide, and the U-Net takes "
                f"{config['cross_attention_dim']}"
            )
        embeddings: int = embedded["num_classes"]
        self.null_class = folder.null_class() if options.null_class is None else options.null_class
        if self.null_class not in (None, embeddings - 1):
            raise DistillkitError(
                f"model.null_class: {self.null_class}; expected the embedding's last class, {embeddings - 1}"
            )
        self.classes = embeddings if self.null_class is None else self.null_class

    def condition(self, labels: torch.Tensor | None, count: int, guidance: torch.Tensor | None = None) -> Condition:
        """The embeddings of classes, [count, 1, D], −1 for the null class."""

        @torch.no_grad()
        def embed(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"encoder_hidden_states": self._embedder(inputs["class_labels"])}

        found = super().condition(labels, count, guidance)
        return Condition(embed(found.inputs), found.null and embed(found.null), found.guidance)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images -> latents, before quantisation."""
        return self.autoencoder.encode(images)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Latents -> images, after quantisation."""
        return self.autoencoder.decode(samples)

    def export(self, network: torch.nn.Module, folder: Path, export: Export) -> None:
        """Write a ClassLatentPipeline with the two classes that diffusers lacks."""
        scheduler, sampling = self.write_scheduler(export)
        pipeline = pipelines.class_conditional.ClassLatentPipeline(
            self.autoencoder.network,
            network,
            self._embedder,
            scheduler,
            export.steps,
            export.guidance,
            self.null_class,
            sampling.by_steps(),
        )
        save(pipeline, folder, model_card(export, pipeline, CLASS_CONDITIONAL, sampling))
