"""Models in diffusers' format: an adapter for each family of pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Model


@hookimpl
def distillkit_models() -> list[type[Model]]:
    from distillkit_diffusers.model import DiffusersModel

    return [DiffusersModel]
