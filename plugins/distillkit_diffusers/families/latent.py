"""Unconditional latent diffusion: a `UNet2DModel` on the latents of a `VQModel`, as LDMPipeline has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import diffusers
import torch

from distillkit.errors import DistillkitError
from distillkit_diffusers.autoencoder import Autoencoder
from distillkit_diffusers.families.pixel import Pixel


class Latent(Pixel):
    """The U-Net is distilled on latents; they are decoded for pictures and scores alone, and images encoded as data."""

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"unet": ("UNet2DModel",), "vqvae": ("VQModel",)}
    takes = frozenset({"cosine", "scaling_factor"})

    def load(self) -> None:
        """Load the U-Net and the autoencoder."""

        super().load()
        assert self.folder is not None  # a new network is in pixel space
        self.autoencoder = Autoencoder.load(self.folder.part("vqvae"), self.options.scaling_factor)
        if (channels := self.autoencoder.channels) != self.sample_shape[0]:
            raise DistillkitError(
                f"model.path: the autoencoder in {self.folder.part('vqvae')} makes latents of {channels} channels, and "
                f"the U-Net takes {self.sample_shape[0]}"
            )
        if self.classes is not None:
            raise DistillkitError(
                f"model.path: the U-Net in {self.folder.part('unet')} takes {self.classes} classes, which an "
                "LDMPipeline cannot give it"
            )

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images -> latents, not quantised."""
        return self.autoencoder.encode(images)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Latents -> quantised, and decoded."""
        return self.autoencoder.decode(samples)

    def unconditional(self, network: torch.nn.Module, scheduler: Any) -> Any:
        """An LDMPipeline, with the autoencoder as it came, but for a scaling factor that its config lacked."""

        return diffusers.LDMPipeline(self.autoencoder.network, network, scheduler)
