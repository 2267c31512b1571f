"""Errors that a user can cause, each with one clear sentence. The command line exits with code 2 on them."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

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
        number: the signal that stopped it: SIGINT (Ctrl-C) or SIGTERM.
    """

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class Terminated(KeyboardInterrupt):
    """Raised by SIGTERM where it interrupts immediately, as Ctrl-C does."""

    number = signal.SIGTERM


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """A signal handler for SIGTERM that raises, as Ctrl-C does, so that files and tracked runs are closed.

    Raises:
        Terminated: always.
    """
    raise Terminated


class GridError(DistillkitError):
    """The noise path has no grid with the requested number of steps."""
