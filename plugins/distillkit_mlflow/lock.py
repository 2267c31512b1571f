"""Who sends a run's record: one process at a time."""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock, FileLock


def lock(folder: Path) -> BaseFileLock:
    """The lock on the sending of the record in a run's folder."""

    return FileLock(folder / ".tracking.lock")
