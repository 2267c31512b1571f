"""Guided distillation (Meng et al. 2023), stage 1: one network that takes the guidance scale as an input."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Teacher
from distillkit_guided.guided_teacher import GuidedTeacher

PRESETS: dict[str, dict[str, Any]] = {
    # Meng et al. 2023, section 3.1, with the teacher's own guided samples instead of data.
    # The scales are the DSD paper's.
    "guided": {
        "teacher": {"type": "guided"},
        # A single step at the student's own z: the target is the teacher's x̂ there.
        "target": {"type": "merged-steps", "stride": 1, "form": "last"},
        "schedule": {"type": "constant", "steps": 16},
        "source": {"type": "trajectory", "staggered": True, "guidance": [1.0, 3.0]},
        "loss": [{"type": "x-mse", "weighting": "truncated-snr"}],
        "optimizer": {"learning_rate": 3e-4, "final_learning_rate": 3e-5, "betas": [0.9, 0.98], "clip": 1.0},
        "ema": {"decay": 0.95},
    }
}


@hookimpl
def distillkit_teachers() -> list[type[Teacher]]:
    return [GuidedTeacher]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
