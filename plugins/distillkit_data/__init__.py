"""Built-in data sets, the source that draws noised data, and plain training."""

from __future__ import annotations

from typing import Any

from distillkit import hookimpl
from distillkit.interfaces import Data, Source
from distillkit_data.datasets import Digits, FashionMnist
from distillkit_data.huggingface import HuggingFace
from distillkit_data.images import Images
from distillkit_data.noised_data import NoisedData

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


@hookimpl
def distillkit_data() -> list[type[Data]]:
    return [Digits, FashionMnist, Images, HuggingFace]


@hookimpl
def distillkit_sources() -> list[type[Source]]:
    return [NoisedData]


@hookimpl
def distillkit_presets() -> dict[str, dict[str, Any]]:
    return PRESETS
