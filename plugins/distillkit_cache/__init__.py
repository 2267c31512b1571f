"""Trajectories of the teacher that are generated once and stored on disk (Luhman & Luhman 2021)."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Source, Target
from distillkit_cache.cached_trajectories import CachedTrajectories
from distillkit_cache.stored_landing import StoredLanding

# One student for every number of steps: it is told how far it jumps, and learns jumps of all sizes from stored
# trajectories, on whose steps every other number of steps has its states.
ANY_STEP: dict[str, Any] = {
    "model": {"step_input": True},
    "teacher": {"type": "self"},
    "target": {"type": "stored-landing", "stride": 1},
    "schedule": {"type": "constant", "steps": 8},
    # The solver is best in 8 steps on this grid. More steps have more jumps to learn.
    "source": {
        "type": "cached-trajectories",
        "order": 2,
        "spacing": "karras-8",
        "levels": [1, 2, 3, 4, 5, 6, 8],
        "level_weights": [1, 1.4, 1.7, 2, 2.2, 2.4, 2.8],
        "trajectories": 512,
    },
    "grid": {"spacing": "karras-8", "start": "late"},
    "loss": [{"type": "x-mse", "weighting": "truncated-snr"}],
    "optimizer": {"learning_rate": 5e-4, "final_learning_rate": 5e-5, "betas": [0.9, 0.98], "clip": 1.0},
    "ema": {"decay": 0.98, "warmup": True},
    "evaluation": {"steps": [1, 2, 4, 8]},
    # docs/study.md: the bundled teacher.
    "scale": {"parameters": 1_220_000, "updates": 600},
}

PRESETS = {
    "any-step": ANY_STEP,
    # What docs/study.md recommends.
    "best": ANY_STEP | {"run": {"method": "any-step"}},
}


@hookimpl
def distillkit_sources() -> list[type[Source]]:
    return [CachedTrajectories]


@hookimpl
def distillkit_targets() -> list[type[Target]]:
    return [StoredLanding]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
