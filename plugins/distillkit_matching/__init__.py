"""Trajectory matching in the manner of SFD (Zhou et al. 2024): the teacher walks beside the student."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Target
from distillkit_matching.presets import PRESETS
from distillkit_matching.trajectory_matching import TrajectoryMatching


@hookimpl
def distillkit_targets() -> list[type[Target]]:

    return [TrajectoryMatching]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:

    return PRESETS
