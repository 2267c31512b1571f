"""The user's terminal: the progress of a run, tables, and stopping the run by signals."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from distillkit import distributed
from distillkit.errors import heeded_signals, leave_terminal, terminate
from distillkit.reading import way

SECONDS_BETWEEN_LINES = 10.0
MEASURED = 20
"""Items of a task from which the time of the others is estimated; the first is not counted, as it also allocates."""
ECHO = 2.0
"""Seconds within which a second signal is the same request: clusters signal all processes of a job, and launchers
forward the signal. Ctrl-C is not repeated like that."""


class Reporter:
    """Shows the progress of a run: as a bar on a terminal, as lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # The other ranks would print the same.
        console.quiet = console.quiet or not distributed.is_main_process()
        self.detail = ""
        """Text beside the bar."""
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._total = 0
        self._began = self._second = self._printed = 0.0

    def say(self, text: str) -> None:
        """Print one line."""
        # rich goes quiet and exits where the reader of a pipe has gone: that is no reason to lose a run.
        with suppress(SystemExit):
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def task(self, what: str, total: int, done: int = 0) -> Iterator[None]:
        """Within this context, `advance` moves a bar.

        Args:
            what: the name of the task.
            total: the number of items.
            done: the number of items that are done already.
        """
        self._total, self._done, self._before = total, done, done
        self._began = self._printed = time.monotonic()
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
        """Count `by` more items as done."""
        detail = self.detail
        self._done += by
        # Pictures are counted by batches, and scores take little time.
        if by == 1:
            self._estimate()
        if self._bar is not None:
            self._bar.update(self._task, advance=by, detail=detail)
            return
        now = time.monotonic()
        if now - self._printed >= SECONDS_BETWEEN_LINES or self._done == self._total:
            self._printed = now
            rate = (now - self._began) / max(self._done - self._before, 1)
            left = rate * (self._total - self._done)
            parts = [f"{self._what} {self._done}/{self._total}", detail, f"{clock(left)} left"]
            self.say("  ".join(part for part in parts if part))

    def _estimate(self) -> None:
        """Say once how long a long task will take."""
        made, left = self._done - self._before, self._total - self._done
        if made == 1:
            self._second = time.monotonic()
        if made == MEASURED and left > MEASURED:
            seconds = (time.monotonic() - self._second) / (MEASURED - 1) * left
            self.say(f"about {clock(seconds)} for the other {left} {self._what}, measured from the first {MEASURED}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: int | None = None) -> None:
    """Print a table to stdout. Cells are printed whole: a terminal wraps them, a pipe gets one line per row.

    Args:
        columns: the headings.
        rows: the cells.
        numbers: the first column of numbers; it and all after it are right-aligned.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for i, column in enumerate(columns):
        right = numbers is not None and i >= numbers
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def print_scores(rows: Sequence[Mapping[str, Any]], labels: Sequence[str] = ("model",)) -> None:
    """Print one table per metric, from rows of scores.json. Missing scores are blank.

    Of a teacher that was sampled in several ways (solvers, guidance scales), the table has the best score at each
    number of steps, and a line below it names them.

    Args:
        rows: the scores.
        labels: the keys of a row that name its model; each is a column.
    """
    for metric in dict.fromkeys(row["metric"] for row in rows):
        chosen = [row for row in rows if row["metric"] == metric and row.get("best", True)]
        steps = sorted({row["steps"] for row in chosen})
        values: dict[tuple[str, ...], dict[int, float]] = {}
        ways: dict[tuple[str, ...], dict[str, list[int]]] = {}
        for row in sorted(chosen, key=lambda row: row["steps"]):
            names = tuple(row[label] for label in labels)
            if "best" in row:
                ways.setdefault(names, {}).setdefault(way(row), []).append(row["steps"])
        for row in chosen:
            values.setdefault(tuple(row[label] for label in labels), {})[row["steps"]] = row["value"]
        columns = [*labels, *(f"{number} step{'s' if number > 1 else ''}" for number in steps)]
        cells = [
            [*names, *(f"{scores[number]:.4g}" if number in scores else "" for number in steps)]
            for names, scores in values.items()
        ]
        samples = ", ".join(str(number) for number in sorted({row["samples"] for row in chosen}))
        print(f"{metric}, {samples} samples")
        print_table(columns, cells, numbers=len(labels))
        for names, best in ways.items():
            used = "; ".join(f"{how} in {', '.join(map(str, numbers))}" for how, numbers in best.items())
            print(f"{', '.join(names)}: the best solver at each number of steps: {used}")
        print()


def clock(seconds: float) -> str:
    """Format seconds: 1:05 for 65 seconds, 1:02:03 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class StopRequest:
    """Whether a signal has asked the run to stop.

    Attributes:
        asked: whether a signal has arrived.
        number: the signal.
    """

    asked: bool = False
    number: int = signal.SIGINT


@contextmanager
def deferred(on_request: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Within this context, the first of `errors.SIGNALS` sets the request; a second one interrupts at once.

    Signals other than SIGINT that arrive within `ECHO` seconds count once, also while what was stopped is ending.

    Args:
        on_request: called after the first signal.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in heeded_signals()}

    def ask(number: int, frame: FrameType | None) -> None:
        request.asked, request.number = True, number
        restore()
        if number == signal.SIGHUP:
            leave_terminal()
        if number != signal.SIGINT:
            asked_at = time.monotonic()

            def again(number: int, frame: FrameType | None) -> None:
                # A limit of CPU time repeats its signal each second.
                if time.monotonic() - asked_at >= ECHO and number != signal.SIGXCPU:
                    terminate(number, frame)

            for other in before.keys() - {signal.SIGINT}:
                signal.signal(other, again)
        # The signal may have arrived during a print, and printing is not reentrant.
        with suppress(RuntimeError):
            on_request()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        for number in before:
            signal.signal(number, ask)
        yield request
    finally:
        if not request.asked:
            restore()
