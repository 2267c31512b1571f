"""Models in diffusers' format: pixel-space U-Nets, unconditional or class-conditional."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Model


@hookimpl
def distillkit_models() -> list[type[Model]]:
    from distillkit_diffusers.local import DiffusersUnet

    return [DiffusersUnet]
