"""Consistency distillation (Song et al. 2023; Luo et al. 2023): every point of a trajectory leads to its one end."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Target
from distillkit_consistency.presets import PRESETS
from distillkit_consistency.target import Consistency


@hookimpl
def distillkit_targets() -> list[type[Target]]:

    return [Consistency]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:

    return PRESETS
