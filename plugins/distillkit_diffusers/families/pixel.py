"""Pixel-space U-Nets on variance-preserving noise paths: DDPM, DDIM and the like."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from distillkit_diffusers.families.table import TableFamily
from distillkit_diffusers.families.unet import Unet2D


class Pixel(TableFamily, Unet2D):
    """A `UNet2DModel` of a pipeline, by itself, or a new one built from a config."""

    takes = frozenset({"network", "cosine", "null_class", "guidance_input"})

    def unconditional(self, network: torch.nn.Module, scheduler: Any) -> Any:
        """DDIMPipeline or DDPMPipeline."""

        # DDIMPipeline turns any scheduler into a DDIM one; DDPMPipeline takes them as they are.
        stock = diffusers.DDIMPipeline if isinstance(scheduler, diffusers.DDIMScheduler) else diffusers.DDPMPipeline
        return stock(network, scheduler)
