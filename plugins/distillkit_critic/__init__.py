"""Distribution matching: a critic learns what the student makes, and how it differs from what the teacher makes."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Critic, Loss
from distillkit_critic.fake_score import FakeScore
from distillkit_critic.losses import DistributionMatching, ScoreIdentity

# A student for every number of steps is sharpened: the jumps of the preset any-step, which hold it where it is, and the
# critic at the same jumps. A slow student and a quick critic: docs/methods.md.
DMD: dict[str, Any] = {
    "model": {"step_input": True},
    "teacher": {"type": "frozen", "renew": "never"},
    "target": {"type": "stored-landing", "stride": 1},
    "critic": {
        "type": "fake-score",
        "updates": 2,
        "warmup": 0.15,
        "optimizer": {"learning_rate": 1e-3, "final_learning_rate": 1e-4},
    },
    "schedule": {"type": "constant", "steps": 8},
    "source": {
        "type": "cached-trajectories",
        "order": 2,
        "spacing": "karras-8",
        "levels": [1, 2, 3, 4, 5, 6, 8],
        # Few steps gain most.
        "level_weights": [3, 2, 1.5, 2, 1, 1, 2],
        "trajectories": 512,
    },
    "grid": {"spacing": "karras-8", "start": "late"},
    "loss": [
        {"type": "x-mse", "weighting": "truncated-snr"},
        {"type": "distribution-matching", "balance": True, "weight": 2.0},
    ],
    "optimizer": {"learning_rate": 2e-5, "final_learning_rate": 2e-6, "betas": [0.0, 0.98], "clip": 1.0},
    "ema": {"decay": 0.98, "warmup": True},
    "evaluation": {"steps": [1, 2, 4, 8]},
    # docs/methods.md: the bundled teacher.
    "scale": {"parameters": 1_220_000, "updates": 260},
}

PRESETS = {
    "dmd": DMD,
    "sid": DMD | {"loss": [DMD["loss"][0], {"type": "score-identity", "balance": True}]},
}


@hookimpl
def distillkit_critics() -> list[type[Critic]]:
    return [FakeScore]


@hookimpl
def distillkit_losses() -> list[type[Loss]]:
    return [DistributionMatching, ScoreIdentity]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
