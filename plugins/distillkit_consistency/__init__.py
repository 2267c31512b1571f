"""Consistency distillation (Song et al. 2023; Luo et al. 2023): every point of a trajectory leads to its one end."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Target
from distillkit_consistency.target import Consistency

PRESETS: dict[str, dict[str, Any]] = {
    "consistency": {
        "teacher": {"type": "frozen", "renew": "never"},
        # The faster the average, the sooner the noisy end learns of the clean one, N steps away, and the less stable.
        "target": {"type": "consistency", "decay": 0.9},
        "schedule": {"type": "constant", "steps": 16},
        # The teacher's steps are a walk of its own; staggered, an update sees all of its noise levels.
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
