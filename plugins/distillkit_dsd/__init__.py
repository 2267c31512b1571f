"""Direct self-distillation: the model is its own teacher, and walks its own samples."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Source, Target, Teacher
from distillkit_dsd.ema_teacher import EmaTeacher
from distillkit_dsd.merged_steps import MergedSteps
from distillkit_dsd.noisier_step import NoisierStep
from distillkit_dsd.presets import PRESETS
from distillkit_dsd.self_teacher import SelfTeacher
from distillkit_dsd.trajectory import Trajectory


@hookimpl
def distillkit_teachers() -> list[type[Teacher]]:

    return [SelfTeacher, EmaTeacher]


@hookimpl
def distillkit_targets() -> list[type[Target]]:

    return [MergedSteps, NoisierStep]


@hookimpl
def distillkit_sources() -> list[type[Source]]:

    return [Trajectory]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:

    return PRESETS
