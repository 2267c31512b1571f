"""Progressive distillation (Salimans & Ho 2022), and Luhman & Luhman's: a frozen teacher."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Teacher
from distillkit_pd.frozen_teacher import FrozenTeacher
from distillkit_pd.presets import PRESETS


@hookimpl
def distillkit_teachers() -> list[type[Teacher]]:

    return [FrozenTeacher]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:

    return PRESETS
