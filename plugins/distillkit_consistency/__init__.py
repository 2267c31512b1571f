"""Consistency distillation (Song et al. 2023; Luo et al. 2023): every point of a trajectory leads to its one end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Target


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    from distillkit_consistency.target import Consistency

    return [Consistency]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    from distillkit_consistency.presets import PRESETS

    return PRESETS
