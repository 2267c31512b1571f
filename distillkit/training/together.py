"""What is written for all processes: where it fails in one it fails in all, so that none waits for another in vain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from distillkit import distributed
from distillkit.errors import DistillkitError
from distillkit.files import writing

T = TypeVar("T")


def on_all(do: Callable[[], T], path: Path) -> T:
    """Do something in every process.

    Args:
        do: writes to `path`.
        path: what the message names.

    Raises:
        DistillkitError: it could not be done, here or elsewhere.
    """
    failed = None
    try:
        with writing(path):
            result = do()
    except DistillkitError as error:
        failed = error
    if distributed.any_rank(failed is not None):
        raise failed or DistillkitError(f"{path}: cannot be written by another process, which says why")
    return result


def on_first(do: Callable[[], None], path: Path) -> None:
    """Do something in the first process alone; as `on_all`."""
    on_all(do if distributed.is_main_process() else lambda: None, path)
