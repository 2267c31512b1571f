"""Original checkpoints of CompVis' latent-diffusion, as diffusers' pipelines."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Converter
from distillkit_compvis.converter import CompVis


@hookimpl
def distillkit_converters() -> list[type[Converter]]:
    return [CompVis]
