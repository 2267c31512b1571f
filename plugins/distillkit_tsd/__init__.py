"""Teacher-student distillation: DSDI with a separate teacher (section 4.1.1)."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl

PRESETS: dict[str, dict[str, Any]] = {
    "tsd": {
        "teacher": {"type": "frozen", "renew": "stage"},
        "target": {"type": "merged-steps", "stride": 2, "form": "landing"},
        "schedule": {"type": "halving", "start": 64},
        "source": {"type": "trajectory"},
        "loss": [{"type": "x-mse", "weighting": "truncated-snr"}],
        "optimizer": {"learning_rate": 1e-6, "final_learning_rate": 1e-7, "betas": [0.9, 0.98], "clip": 1.0},
        "ema": {"decay": 0.995},
        "scale": {"parameters": 274_060_000, "updates": 4000},
    }
}


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
