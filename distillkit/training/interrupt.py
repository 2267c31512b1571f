"""Ctrl-C and SIGTERM between updates rather than in the middle of one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from distillkit.errors import Terminated

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO = 2.0
"""Seconds in which another SIGTERM is the same one: clusters tell all processes of a job, and launchers pass it on."""


@dataclass
class StopRequest:
    """Whether the user, or whoever runs the machine, has asked to stop.

    Attributes:
        asked: whether they have.
        number: the signal by which they have.
    """

    asked: bool = False
    number: int = signal.SIGINT


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """A handler of SIGTERM that interrupts as Ctrl-C does, so that what is open is closed."""
    raise Terminated


@contextmanager
def deferred(tell: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Inside, a first signal only asks, and `tell` says so; a second one interrupts at once, as it does outside.

    A SIGTERM that comes twice within `ECHO` seconds is one.
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
        # The signal may have come while something was being printed, in which nothing else can be.
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
