"""Models in diffusers' format: an adapter for each family of pipelines."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Model
from distillkit_diffusers.model import DiffusersModel


@hookimpl
def distillkit_models() -> list[type[Model]]:
    return [DiffusersModel]
