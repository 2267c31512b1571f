"""Plain training: what makes a teacher."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "training": {
        # A trailing grid of as many steps as the path has times visits all of them.
        "schedule": {"type": "constant", "steps": 1000},
        "source": {"type": "noised-data", "batch": 64},
        "loss": [{"type": "v-mse", "against": "data"}],
        "grid": {"start": 999},
        "optimizer": {"learning_rate": 1e-3, "final_learning_rate": 0.0, "warmup": 200, "betas": [0.9, 0.99]},
        "ema": {"decay": 0.999, "warmup": True},
    }
}
