"""Trajectory matching in the manner of SFD (Zhou et al. 2024): the teacher walks beside the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Target


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    from distillkit_matching.trajectory_matching import TrajectoryMatching

    return [TrajectoryMatching]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    from distillkit_matching.presets import PRESETS

    return PRESETS
