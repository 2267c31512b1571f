"""Where the run is recorded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from distillkit.component import Component
from distillkit.errors import DistillkitError

Status = Literal["finished", "failed", "killed"]


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told at the start.

    Attributes:
        name: the run's name.
        folder: the run's folder.
        settings: the resolved config, as nested tables.
        plan: one (steps, updates, evaluations) per stage.
        resumed: whether the run goes on from a checkpoint.
        parent: the folder of the run that this one is a phase of.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]
    plan: list[tuple[int, int, int]]
    resumed: bool = False
    parent: Path | None = None


class Tracker(Component):
    """Records one run. The journal and scores.json are the truth; a tracker is a view of them.

    A run neither waits for its tracker nor fails with it: the `log_` methods and `finish` never block on a network and
    never raise. What cannot be recorded is a warning, told once. `finish` may wait five seconds for what is on its way.
    `start` raises where the options can be known to be wrong without asking anyone, as `check` does.
    """

    has_ui: ClassVar[bool] = False
    """Whether `distillkit ui` has something to open."""

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """Open the record and write the settings.

        Raises:
            DistillkitError: nothing could ever be recorded with these options.
        """

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, float], update: int) -> None:
        """Points of the curves at one update."""

    @abstractmethod
    def log_scores(self, scores: Sequence[Mapping[str, Any]]) -> None:
        """The rows of scores.json."""

    @abstractmethod
    def log_image(self, key: str, image: torch.Tensor, step: int) -> None:
        """A picture, uint8 [H, W, 3], one of a series `key` over `step`."""

    @abstractmethod
    def log_file(self, path: Path) -> None:
        """A file of the run's folder (the config, the scores)."""

    @abstractmethod
    def finish(self, status: Status) -> None:
        """Close the record."""

    def replay(self, folder: Path) -> str:
        """Send what could not be recorded while the run in a folder went on (`distillkit track`).

        Returns:
            what was sent, in a line for the user.

        Raises:
            DistillkitError: the tracker has nothing to send, or nobody takes it.
        """
        raise DistillkitError(f"the tracker '{self.name}' keeps nothing that could be sent")

    def open_ui(self, port: int) -> None:
        """Show the recorded runs on http://127.0.0.1:`port`, until the user stops it.

        Raises:
            DistillkitError: the tracker has no UI, or it cannot start.
        """
        raise DistillkitError(f"the tracker '{self.name}' has no UI")
