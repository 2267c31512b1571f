"""Direct self-distillation: the model is its own teacher, and walks its own samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Source, Target, Teacher


@hookimpl
def distillkit_teachers() -> list[type[Teacher]]:
    from distillkit_dsd.ema_teacher import EmaTeacher
    from distillkit_dsd.self_teacher import SelfTeacher

    return [SelfTeacher, EmaTeacher]


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    from distillkit_dsd.merged_steps import MergedSteps
    from distillkit_dsd.noisier_step import NoisierStep

    return [MergedSteps, NoisierStep]


@hookimpl
def distillkit_sources() -> list[type[Source]]:
    from distillkit_dsd.trajectory import Trajectory

    return [Trajectory]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    from distillkit_dsd.presets import PRESETS

    return PRESETS
