"""Guided distillation (Meng et al. 2023), stage 1: one network that takes the guidance scale as an input."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Teacher
from distillkit_guided.guided_teacher import GuidedTeacher
from distillkit_guided.presets import PRESETS


@hookimpl
def distillkit_teachers() -> list[type[Teacher]]:

    return [GuidedTeacher]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:

    return PRESETS
