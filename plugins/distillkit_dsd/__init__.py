"""Direct self-distillation: the model is its own teacher, and walks its own samples."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Source, Target, Teacher
from distillkit_dsd.dsd import EmaTeacher, MergedSteps, SelfTeacher
from distillkit_dsd.rollout import Rollout
from distillkit_dsd.trajectory import Trajectory
from distillkit_dsd.variants import NoisierStep

DSD: dict[str, Any] = {
    "teacher": {"type": "self"},
    "target": {"type": "merged-steps", "stride": 2, "form": "landing"},
    "source": {"type": "trajectory"},
    "loss": [{"type": "x-mse", "weighting": "truncated-snr"}],
    # Table 3: CelebA-HQ and LSUN Bedroom.
    "optimizer": {"learning_rate": 1e-6, "final_learning_rate": 1e-7, "betas": [0.9, 0.98], "clip": 1.0},
    "ema": {"decay": 0.995},
    "scale": {"parameters": 274_060_000, "updates": 4000},
}

# docs/methods.md: the slow average anchors what would run away, falling again and again keeps what was learned at more
# steps, and N = 4 is the last so that the student still serves 2, 4 and 8.
ANCHORED: dict[str, Any] = DSD | {
    "teacher": {"type": "ema", "decay": 0.998},
    "schedule": {"type": "halving", "start": 16, "stop": 4, "cycles": 8},
    "optimizer": DSD["optimizer"] | {"learning_rate": 1e-4, "final_learning_rate": 1e-5},
    "ema": {"decay": 0.95},
    # docs/study.md: the bundled teacher.
    "scale": {"parameters": 1_220_000, "updates": 240},
}

PRESETS: dict[str, dict[str, Any]] = {
    "dsdn": DSD | {"schedule": {"type": "constant", "steps": 64}},
    "dsdi": DSD | {"schedule": {"type": "halving", "start": 64}},
    "dsdgl": DSD | {"schedule": {"type": "linear", "start": 64}},
    "dsdgexp": DSD | {"schedule": {"type": "exponential", "start": 64}},
    "dsd-anchored": ANCHORED,
    # Equation 1 and section 5.2: α = 0.85, β = 0.15. Learning rate: CelebA's (LSUN: 4e-4); batch and warm-up: those of
    # the authors' configs. How long a step is, the paper does not say: N as elsewhere. EMA: the preset training's.
    "dsd-training": {
        "teacher": {"type": "self"},
        "target": {"type": "merged-steps", "stride": 2, "form": "landing"},
        "schedule": {"type": "constant", "steps": 64},
        "source": {"type": "noised-data", "batch": 128, "times": "uniform"},
        "loss": [
            {"type": "v-mse", "against": "data", "weight": 0.85},
            {"type": "x-mse", "against": "target", "weight": 0.15},
        ],
        "optimizer": {"learning_rate": 1e-4, "warmup": 1000},
        "ema": {"decay": 0.999, "warmup": True},
    },
}


@hookimpl
def distillkit_teachers() -> list[type[Teacher]]:
    return [SelfTeacher, EmaTeacher]


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    return [MergedSteps, NoisierStep]


@hookimpl
def distillkit_sources() -> list[type[Source]]:
    return [Rollout, Trajectory]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
