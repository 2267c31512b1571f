"""Starts a run's tracker and finishes it with what became of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distillkit import distributed
from distillkit.config import Settings
from distillkit.errors import RunInterrupted, Terminated
from distillkit.interfaces import NoTracker, RunInfo, Tracker
from distillkit.training.terminal import SIGNALS, deferred


@contextmanager
def recorded(tracker: Tracker, info: RunInfo, undo: Callable[[], None]) -> Iterator[Tracker]:
    """Inside, `tracker`, which this gives, is started; afterwards it is finished with the run's status.

    Args:
        tracker: to start.
        info: the run.
        undo: called if the tracker cannot start.
    """
    # A signal while it starts would leave nothing that could be finished as killed.
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


def own_tracker(settings: Settings) -> Tracker:
    """A config's tracker in the main process, and one that does nothing in the others."""
    return settings.components().tracker if distributed.is_main_process() else NoTracker(NoTracker.Options())
