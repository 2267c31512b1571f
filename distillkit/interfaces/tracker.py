"""Trackers show runs, while they are going on and afterwards."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from distillkit.component import Component
from distillkit.errors import DistillkitError
from distillkit.interfaces.schedule import Stage

Status = Literal["finished", "failed", "killed"]


@dataclass(frozen=True)
class RunInfo:
    """What a tracker needs to know at the start, besides the files in the run's folder.

    Attributes:
        name: the run's name.
        folder: the run's folder.
        plan: the stages.
        resumed: whether the run is resumed.
        parent: for a phase of a run with several phases, the folder of that run.
    """

    name: str
    folder: Path
    plan: Sequence[Stage]
    resumed: bool = False
    parent: Path | None = None


class Tracker(Component):
    """Shows one run. The run's folder is the record: the tracker reads the folder, and `sync` says that it has changed.

    A run does not wait for its tracker, and does not fail because of it: `sync` and `finish` never block on a network
    and never raise. If something cannot be sent, they log one warning. `finish` may wait up to five seconds. distillkit
    logs the first exception that they raise all the same, and the run goes on.

    A run with several phases calls `start` once for itself, then `start` and `finish` for each phase, then `finish`.
    """

    has_ui: ClassVar[bool] = False
    """Whether the tracker implements `open_ui`."""

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """Called when a run starts or is resumed. Its folder contains config.toml.

        Must not connect to anything.

        Raises:
            DistillkitError: nothing can be sent with these options, for example because a package is not installed.
        """

    @abstractmethod
    def sync(self) -> None:
        """Called when the folder has changed.

        New are lines of journal.jsonl (every `run.log_every` updates) or of curves.jsonl, pictures in samples/, or
        scores.json. A run that is resumed or rolled back first removes the lines that it is going to write again.
        """

    @abstractmethod
    def finish(self, status: Status) -> None:
        """Called when the run has ended."""

    def send(self, folder: Path) -> str:
        """Send everything of a run that has not been sent yet, and wait for it (`distillkit track`). Optional.

        Args:
            folder: the run's folder.

        Returns:
            One line for the user that says what was sent.

        Raises:
            DistillkitError: the tracker sends runs nowhere, or sending failed.
        """
        raise DistillkitError(f"the tracker '{self.name}' does not send runs anywhere: name a store with --uri")

    def open_ui(self, port: int, folder: Path | None = None) -> None:
        """Serve a UI on http://127.0.0.1:`port` until the user stops it (`distillkit ui`). Optional.

        Args:
            port: the port.
            folder: the folder of a run that the UI must have; None: whatever the options say.

        Raises:
            DistillkitError: the tracker has no UI, or the UI cannot start.
        """
        raise DistillkitError(f"the tracker '{self.name}' has no UI")


class NoTracker(Tracker):
    """Does nothing: the run is recorded in its folder only."""

    name = "none"

    def start(self, run: RunInfo) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def finish(self, status: Status) -> None:
        """Do nothing."""
