"""Errors that a user can cause, each with one clear sentence. The command line exits with code 2 on them."""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

TIMERS = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO)
"""The signals for which libraries have handlers of their own: for timeouts, profiles and files."""
SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),
    *([signal.SIGPWR] if hasattr(signal, "SIGPWR") else []),  # Linux alone has it
    *TIMERS,
)
"""The signals that stop a command: those that a user, a batch system or a terminal sends, and that would kill it.

Clusters send SIGUSR1, SIGUSR2 or SIGXCPU before they end a job, a terminal SIGHUP when it is closed. SIGXCPU also comes
from the system, each second from a soft limit of CPU time on."""

HIDDEN = "***"
"""Replaces credentials in messages."""

_USER = re.compile(r"(?<=:/)(/?)[^/\s:@]*(?::\S*)?@")
"""`user:password@` in a URI, up to the last @, because SQLAlchemy accepts passwords that contain an @ or a slash."""

_NAMES = "password|passwd|pwd|pass|token|secret|key|auth|credentials?|sig|signature|odbc_connect"
"""The endings of the names of query parameters that hold credentials."""

QUERY = re.compile(rf"(?i)([?&;#][^=&;#\s]*(?:{_NAMES})=)([^&;#\s'\"]*)")
"""A query parameter of a URI that holds credentials, and its value."""


def redact(text: str) -> str:
    """Return the text with the credentials in every URI replaced by `***`."""
    return QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))


def printable(text: str, lines: bool = True) -> str:
    """The text with control characters, such as names of files may have, as escapes: a terminal would obey them.

    Args:
        text: the text.
        lines: whether line breaks and tabs stay.
    """
    kept = "\n\t" if lines else ""
    return "".join(char if char.isprintable() or char in kept else repr(char)[1:-1] for char in text)


class DistillkitError(Exception):
    """A user error. Its message names the key, file or value, what was expected and what to do."""


@dataclass(frozen=True)
class Mistake:
    """One mistake in a config. Its text hides the credentials of every URI.

    Attributes:
        key: the full TOML key, such as `optimizer.betas[1]`.
        message: what is wrong, and what was expected.
    """

    key: str
    message: str

    def __str__(self) -> str:
        return redact(f"{self.key}: {self.message}" if self.key else self.message)


class ConfigError(DistillkitError):
    """All mistakes of one config.

    Args:
        mistakes: the mistakes, in the order in which they are printed.
        source: the file that the config was read from, if any.
    """

    def __init__(self, mistakes: Iterable[Mistake], source: str = "config") -> None:
        self.mistakes = list(mistakes)
        self.source = source
        count = len(self.mistakes)
        lines = [f"{source}: {count} error{'s' if count != 1 else ''}", *(f"  {m}" for m in self.mistakes)]
        super().__init__("\n".join(lines))


class RunInterrupted(DistillkitError):
    """The run was stopped between two updates. All files that it has written are complete.

    Args:
        message: how far the run got.
        number: the signal that stopped it.
    """

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class Terminated(KeyboardInterrupt):
    """Raised by a signal other than SIGINT where it interrupts immediately, as Ctrl-C does.

    Args:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def heeded_signals() -> list[signal.Signals]:
    """Those of `SIGNALS` that the process does not ignore: with `nohup` it ignores SIGHUP, in a script's `&` SIGINT.

    A timer's signal is left to whoever has a handler for it.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    return [
        number
        for number, handler in handlers.items()
        if handler not in (signal.SIG_IGN, None) and (number not in TIMERS or handler in (signal.SIG_DFL, terminate))
    ]


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """A signal handler that raises, as Ctrl-C does, so that files and tracked runs are closed.

    Raises:
        Terminated: always.
    """
    if number == signal.SIGHUP:
        leave_terminal()
    raise Terminated(number)


def leave_terminal() -> None:
    """Discard what is printed to a terminal from now on: it is gone after SIGHUP, and printing to it would fail."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        with suppress(OSError):
            # A terminal that is gone does not say that it was one.
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(null, stream)
    os.close(null)


class GridError(DistillkitError):
    """The noise path has no grid with the requested number of steps."""
