"""Who records a run that several processes carry out."""

from __future__ import annotations

from typing import cast

from distillkit import workers
from distillkit.config import read_component
from distillkit.interfaces import Tracker


def own_tracker(tracker: Tracker, origin: str) -> Tracker:
    """The config's tracker in the first process, and one that records nothing in the others.

    Args:
        tracker: the config's.
        origin: where the config came from, for messages.
    """
    return tracker if workers.is_first() else cast(Tracker, read_component("tracker", {"type": "none"}, origin))
