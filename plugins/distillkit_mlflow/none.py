"""The tracker `none`: the journal and scores.json are all there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distillkit.interfaces import RunInfo, Tracker
from distillkit.interfaces.tracker import Status


class NoTracker(Tracker):
    """Records nothing."""

    name = "none"

    def start(self, run: RunInfo) -> None:
        """Nothing to open."""

    def log_metrics(self, metrics: Mapping[str, float], update: int) -> None:
        """Nothing to write."""

    def log_scores(self, scores: Sequence[Mapping[str, Any]]) -> None:
        """Nothing to write."""

    def log_image(self, key: str, image: torch.Tensor, step: int) -> None:
        """Nothing to write."""

    def log_file(self, path: Path) -> None:
        """Nothing to write."""

    def finish(self, status: Status) -> None:
        """Nothing to close."""
