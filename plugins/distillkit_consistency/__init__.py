"""Consistency distillation (Song et al. 2023; Luo et al. 2023): all points of a trajectory lead to its end."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Target
from distillkit_consistency.target import Consistency

PRESETS: dict[str, dict[str, Any]] = {
    "consistency": {
        "teacher": {"type": "frozen", "renew": "never"},
        # A faster average brings what is learned at clean data sooner to the noise, N steps away, but is less stable.
        "target": {"type": "consistency", "decay": 0.9},
        "schedule": {"type": "constant", "steps": 16},
        # The trajectory follows the teacher's steps. Staggered, each update has all noise levels.
        "source": {"type": "trajectory", "staggered": True},
        "loss": [{"type": "x-huber"}],
        "optimizer": {"learning_rate": 3e-4, "final_learning_rate": 3e-5, "betas": [0.9, 0.98], "clip": 1.0},
        "ema": {"decay": 0.95},
        "evaluation": {"steps": [1, 2, 4], "sampler": "consistency"},
        # docs/study.md: the bundled teacher.
        "scale": {"parameters": 1_220_000, "updates": 240},
    }
}


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    return [Consistency]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
