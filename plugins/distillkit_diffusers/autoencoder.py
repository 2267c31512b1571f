"""The frozen autoencoder of a latent model. Imports torch and diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from distillkit_diffusers import networks
from distillkit_diffusers.folder import read_json

SLICE = 8
"""Images that are encoded or decoded at once: activations at full resolution are what fills the memory."""


class Autoencoder:
    """Images in [−1, 1] <-> the latents that a diffusion network works on, (h − shift)·scaling_factor of its own h.

    Of a `VQModel` h is what comes before the nearest code is taken, and decoding takes it; of an `AutoencoderKL` it is
    the posterior's mean. No gradient passes through.

    Args:
        network: in evaluation mode, without gradients.
        scaling_factor: laid over what its config says, and what an export says; None: the config's own.
    """

    def __init__(self, network: VQModel | AutoencoderKL, scaling_factor: float | None = None) -> None:
        self.network = network
        if scaling_factor is not None:
            network.register_to_config(scaling_factor=scaling_factor)
        self._scale = float(network.config["scaling_factor"])
        self._shift = float(network.config.get("shift_factor") or 0.0)

    @classmethod
    def load(cls, folder: Path, scaling_factor: float | None = None) -> Autoencoder:
        """From its own folder.

        A `VQModel` whose config.json has no `scaling_factor` is from before diffusers' LDMPipeline divided by one
        (diffusers #5213), and has the latents as they come: 1. diffusers itself would take 0.18215 (diffusers #6725).
        """
        config = read_json(folder / "config.json")
        network_class = {"VQModel": VQModel, "AutoencoderKL": AutoencoderKL}[config["_class_name"]]
        if scaling_factor is None and network_class is VQModel and "scaling_factor" not in config:
            scaling_factor = 1.0
        return cls(networks.load_frozen(folder, network_class), scaling_factor)

    @property
    def channels(self) -> int:
        """How many channels the latents have."""
        config: dict[str, Any] = self.network.config
        return int(config.get("vq_embed_dim") or config["latent_channels"])

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> latents [B, c, h, w] on the images' device."""
        return torch.cat([self._encode(part) for part in torch.split(images.to(self.network.device), SLICE)]).to(
            images.device
        )

    def _encode(self, images: Tensor) -> Tensor:
        encoded = self.network.encode(images)
        latents: Tensor = encoded.latents if isinstance(self.network, VQModel) else encoded.latent_dist.mean
        return (latents - self._shift) * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] -> images [B, C, H, W] on the latents' device, where the autoencoder goes and stays."""
        self.network.to(latents.device)
        whole = latents / self._scale + self._shift
        return torch.cat([self.network.decode(part, return_dict=False)[0] for part in torch.split(whole, SLICE)])
