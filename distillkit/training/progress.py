"""How a run shows where it is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from distillkit import distributed

SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """Tells the user what the run is doing."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # The others would say the same.
        console.quiet = console.quiet or not distributed.is_main_process()
        self.detail = ""
        """How the task goes, beside its bar."""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._total = 0
        self._began = self._told = 0.0

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[None]:
        """Inside, `advance` moves a bar of `total` parts, `done` of them done before."""
        self._total, self._done, self._before = total, done, done
        self._began = self._told = time.monotonic()
        self._what = what
        self.detail = ""
        if not self.console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as self._bar:
            self._task = self._bar.add_task(what, total=total, completed=done, detail="")
            try:
                yield
            finally:
                self._bar = None

    def advance(self, by: int) -> None:
        """`by` parts more are done."""
        detail = self.detail
        self._done += by
        if self._bar is not None:
            self._bar.update(self._task, advance=by, detail=detail)
            return
        now = time.monotonic()
        if now - self._told >= SECONDS_BETWEEN_LINES or self._done == self._total:
            self._told = now
            rate = (now - self._began) / max(self._done - self._before, 1)
            left = rate * (self._total - self._done)
            parts = [f"{self._what} {self._done}/{self._total}", detail, f"{clock(left)} left"]
            self.say("  ".join(part for part in parts if part))


def clock(seconds: float) -> str:
    """1:05 for 65 seconds, 1:02:03 for an hour and more."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
