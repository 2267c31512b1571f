"""Trajectory matching after SFD (Zhou et al. 2024): student and teacher start from the same noise."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Target
from distillkit_matching.trajectory_matching import TrajectoryMatching

PRESETS: dict[str, dict[str, Any]] = {
    # As in the authors' README and code: 4 steps of the teacher per step of the student, batch 128, Adam at 5e-5 with
    # β 0.9 and 0.999, no average of the weights. They use a tenth of the rate in the second half (here a cosine), and
    # train for 3 to 6 steps.
    "matching": {
        "teacher": {"type": "frozen", "renew": "never"},
        "target": {"type": "trajectory-matching", "stride": 4, "order": 2},
        "schedule": {"type": "constant", "steps": 16},
        "source": {"type": "trajectory", "batch": 128},
        "loss": [{"type": "x-l1", "weighting": "landing"}],
        "optimizer": {"learning_rate": 5e-5, "final_learning_rate": 5e-6, "betas": [0.9, 0.999], "clip": 1.0},
        # docs/study.md: the bundled teacher.
        "scale": {"parameters": 1_220_000, "updates": 240},
    }
}


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    return [TrajectoryMatching]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
