"""Progressive distillation (Salimans & Ho 2022), and Luhman & Luhman's: a frozen teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Teacher


@hookimpl
def distillkit_teachers() -> list[type[Teacher]]:
    from distillkit_pd.frozen_teacher import FrozenTeacher

    return [FrozenTeacher]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    from distillkit_pd.presets import PRESETS

    return PRESETS
