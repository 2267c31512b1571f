"""Who sends a run's record: one process at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock


def lock(folder: Path) -> BaseFileLock:
    """The lock on the sending of the record in a run's folder."""
    from filelock import FileLock

    return FileLock(folder / ".tracking.lock")
