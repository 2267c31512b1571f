"""Original checkpoints of CompVis' latent-diffusion, as diffusers' pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Converter


@hookimpl
def distillkit_converters() -> list[type[Converter]]:
    from distillkit_compvis.converter import CompVis

    return [CompVis]
