"""Where a run is shown while it goes on, and afterwards."""

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
    """What a run's folder doesn't hold, and a tracker needs at the start.

    Attributes:
        name: the run's name.
        folder: the run's folder.
        plan: the stages.
        resumed: whether the run goes on from a checkpoint.
        parent: the folder of the chain that this run is a phase of.
    """

    name: str
    folder: Path
    plan: Sequence[Stage]
    resumed: bool = False
    parent: Path | None = None


class Tracker(Component):
    """Shows one run somewhere. The run's folder is the record; a tracker reads it, and is told when there is more.

    A run neither waits for its tracker nor fails with it: `sync` and `finish` never block on a network and never
    raise. What cannot be sent is one warning. `finish` may wait five seconds for what is on its way. A chain calls
    `start` and `finish` of its tracker for each phase, between its own.
    """

    has_ui: ClassVar[bool] = False
    """Whether `distillkit ui` has something to open."""

    @abstractmethod
    def start(self, run: RunInfo) -> None:
        """The run begins or goes on. Its folder holds config.toml.

        Raises:
            DistillkitError: nothing could ever be sent with these options. Nobody is asked to find out.
        """

    @abstractmethod
    def sync(self) -> None:
        """There is more in the folder.

        Lines of journal.jsonl (every `run.log_every` updates) or curves.jsonl, pictures in samples/, or scores.json.
        A resumed run, and one that goes back to a checkpoint, cuts the lines off that it writes again.
        """

    @abstractmethod
    def finish(self, status: Status) -> None:
        """The run is over."""

    def send(self, folder: Path) -> str:
        """Send what is missing of the run in a folder, and wait for it (`distillkit track`). Optional.

        Returns:
            what was sent, in a line for the user.

        Raises:
            DistillkitError: there is nowhere to send it, or it is not taken.
        """
        raise DistillkitError(f"the tracker '{self.name}' sends runs nowhere: name a store with --uri")

    def open_ui(self, port: int) -> None:
        """Show the runs on http://127.0.0.1:`port`, until the user stops it (`distillkit ui`). Optional.

        Raises:
            DistillkitError: the tracker has no UI, or it cannot start.
        """
        raise DistillkitError(f"the tracker '{self.name}' has no UI")


class NoTracker(Tracker):
    """Shows the run nowhere: its folder is all there is."""

    name = "none"

    def start(self, run: RunInfo) -> None:
        """Nothing to begin."""

    def sync(self) -> None:
        """Nothing to send."""

    def finish(self, status: Status) -> None:
        """Nothing to end."""
