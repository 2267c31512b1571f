"""Guided distillation (Meng et al. 2023), stage 1: one network that takes the guidance scale as an input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Teacher


@hookimpl
def distillkit_teachers() -> list[type[Teacher]]:
    from distillkit_guided.guided_teacher import GuidedTeacher

    return [GuidedTeacher]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    from distillkit_guided.presets import PRESETS

    return PRESETS
