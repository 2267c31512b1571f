"""The user's terminal: the progress of a run, and stopping it by Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from distillkit import distributed
from distillkit.errors import terminate

SECONDS_BETWEEN_LINES = 10.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO = 2.0
"""Seconds within which a second SIGTERM is the same request: clusters signal all processes of a job, and launchers
forward the signal."""


class Reporter:
    """Shows what a run is doing: a bar on a terminal, lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # The other ranks would print the same.
        console.quiet = console.quiet or not distributed.is_main_process()
        self.detail = ""
        """Shown beside the bar."""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._total = 0
        self._began = self._told = 0.0

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[None]:
        """Inside, `advance` moves a bar of `total` parts, `done` of which were done before."""
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
        """Count `by` more parts as done."""
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


@dataclass
class StopRequest:
    """Whether a signal has asked the run to stop.

    Attributes:
        asked: whether one has.
        number: which signal.
    """

    asked: bool = False
    number: int = signal.SIGINT


@contextmanager
def deferred(tell: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Inside, a first SIGINT or SIGTERM only sets the request, and calls `tell`; a second one interrupts at once.

    A SIGTERM that comes twice within `ECHO` seconds counts once.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def ask(number: int, frame: FrameType | None) -> None:
        request.asked, request.number = True, number
        restore()
        if number == signal.SIGTERM:
            asked_at = time.monotonic()

            def again(number: int, frame: FrameType | None) -> None:
                if time.monotonic() - asked_at >= ECHO:
                    terminate(number, frame)

            signal.signal(number, again)
        # The signal may have arrived while something was being printed: printing is not reentrant.
        with suppress(RuntimeError):
            tell()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in SIGNALS:
            signal.signal(number, ask)
        yield request
    finally:
        restore()
