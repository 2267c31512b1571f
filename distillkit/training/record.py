"""A tracker's record around what is done: opened before it, and closed as what became of it; of one process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from distillkit import distributed
from distillkit.config import read_component
from distillkit.errors import RunInterrupted, Terminated
from distillkit.interfaces import RunInfo, Tracker
from distillkit.training.terminal import SIGNALS, deferred


@contextmanager
def recorded(tracker: Tracker, info: RunInfo, undo: Callable[[], None]) -> Iterator[Tracker]:
    """Inside, the run is recorded by `tracker`, which this gives.

    Args:
        tracker: opened here.
        info: what it is told.
        undo: called if it cannot be opened.
    """
    # A record that is opened halfway could not be closed as killed.
    with deferred() as stop:
        try:
            tracker.start(info)
        except BaseException:
            undo()
            raise
    try:
        if stop.asked:
            raise KeyboardInterrupt if stop.number == SIGNALS[0] else Terminated
        yield tracker
    except (KeyboardInterrupt, RunInterrupted):
        tracker.finish("killed")
        raise
    except BaseException:
        tracker.finish("failed")
        raise
    tracker.finish("finished")


def own_tracker(tracker: Tracker, origin: str) -> Tracker:
    """The config's tracker in the first process, and one that records nothing in the others.

    Args:
        tracker: the config's.
        origin: where the config came from, for messages.
    """
    return (
        tracker if distributed.is_main_process() else cast(Tracker, read_component("tracker", {"type": "none"}, origin))
    )
