"""Progressive distillation (Salimans & Ho 2022), and Luhman & Luhman's: a frozen teacher."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Teacher
from distillkit_pd.frozen_teacher import FrozenTeacher

COMMON: dict[str, Any] = {
    "loss": [{"type": "x-mse", "weighting": "truncated-snr"}],
    "optimizer": {"learning_rate": 1e-4, "final_learning_rate": 1e-5, "betas": [0.9, 0.98], "clip": 1.0},
    "ema": {"decay": 0.995},
}

PRESETS: dict[str, dict[str, Any]] = {
    "pd": COMMON
    | {
        "teacher": {"type": "frozen", "renew": "stage"},
        "target": {"type": "merged-steps", "stride": 2, "form": "landing"},
        "schedule": {"type": "halving", "start": 64},
        "source": {"type": "noised-data"},
    },
    "luhman": COMMON
    | {
        "teacher": {"type": "frozen", "renew": "never"},
        "target": {"type": "merged-steps", "stride": "all"},
        "schedule": {"type": "constant", "steps": 16},
        "source": {"type": "trajectory"},
        # docs/study.md: the bundled teacher.
        "scale": {"parameters": 1_220_000, "updates": 240},
    },
    # The teacher is evaluated only before the first update, when it is the network itself.
    "luhman-cached": COMMON
    | {
        "teacher": {"type": "self"},
        "target": {"type": "stored-landing"},
        "schedule": {"type": "constant", "steps": 16},
        "source": {"type": "cached-trajectories"},
        "scale": {"parameters": 1_220_000, "updates": 240},
    },
}


@hookimpl
def distillkit_teachers() -> list[type[Teacher]]:
    return [FrozenTeacher]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
