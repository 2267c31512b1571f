"""`distillkit convert`: a latent diffusion of CompVis as a pipeline of diffusers."""

from __future__ import annotations

from pathlib import Path

from distillkit.interfaces import Converter
from distillkit_compvis import checkpoint as pickled
from distillkit_compvis.reading import read
from distillkit_compvis.weights import Weights


class CompVis(Converter):
    """CompVis' latent-diffusion with a VQ first stage: unconditional, or conditioned on classes."""

    name = "compvis"

    def convert(self, checkpoint: Path, config: Path, ema: bool, folder: Path) -> str:
        """Read the config, as it is small, then the checkpoint; see that they fit; write."""

        # It defines classes of diffusers', which imports all of it.
        from distillkit_compvis import pipeline

        params = read(config)
        weights = Weights.of(pickled.read(checkpoint), ema)
        parts = pipeline.networks(params, weights)
        weights.check(pipeline.scheduler(params).betas, checkpoint, config)
        which = "averaged (EMA)" if weights.ema else "not averaged"
        name = pipeline.write(parts, params, f"`{checkpoint.name}` (the U-Net's weights {which})", folder)
        count = sum(weight.numel() for weight in parts["unet"].parameters())
        return f"{name}, {count / 1e6:.2f} M weights in the U-Net, {which}"
