"""Jumps of all sizes, learned from the student's other jumps and the teacher, without stored trajectories."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Source, Target
from distillkit_anystep.lagrangian import Lagrangian
from distillkit_anystep.pure_noise import PureNoise
from distillkit_anystep.semigroup import Semigroup

PRESETS: dict[str, dict[str, Any]] = {
    "shortcut": {
        "model": {"step_input": True},
        "teacher": {"type": "frozen", "renew": "never"},
        "target": {"type": "semigroup", "stride": 4, "order": 2},
        "schedule": {"type": "constant", "steps": 32},
        "source": {"type": "trajectory", "levels": [1, 2, 4, 8], "level_weights": [1, 1.4, 2, 2.8]},
        "grid": {"spacing": "trailing + angle"},
        "loss": [{"type": "x-mse", "weighting": "truncated-snr"}],
        "optimizer": {"learning_rate": 5e-4, "final_learning_rate": 5e-5, "betas": [0.9, 0.98], "clip": 1.0},
        "ema": {"decay": 0.98, "warmup": True},
        "evaluation": {"steps": [1, 2, 4, 8]},
        # docs/methods.md: the bundled teacher.
        "scale": {"parameters": 1_220_000, "updates": 600},
    }
}


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    return [Lagrangian, Semigroup]


@hookimpl
def distillkit_sources() -> list[type[Source]]:
    return [PureNoise]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
