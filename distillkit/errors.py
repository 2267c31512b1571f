"""What can go wrong for a user, as one clear sentence each. The command line turns these into exit code 2."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

HIDDEN = "***"
"""What is shown for credentials."""

_USER = re.compile(r"(?<=:/)(/?)[^/\s:@]*(?::\S*)?@")
"""`user:password@` of any URI in a text, up to the last @: SQLAlchemy takes passwords that hold an @ or a slash."""

_NAMES = "password|passwd|pwd|pass|token|secret|key|auth|credentials?|sig|signature|odbc_connect"
"""What the names of query parameters end in that hold credentials."""

QUERY = re.compile(rf"(?i)([?&;#][^=&;#\s]*(?:{_NAMES})=)([^&;#\s'\"]*)")
"""Such a parameter of a URI, and its value."""


def redact(text: str) -> str:
    """A text with the credentials of every URI in it replaced by `***`."""
    return QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))


class DistillkitError(Exception):
    """A fault in what the user gave: its message names the thing, what was expected and what to do."""


@dataclass(frozen=True)
class Mistake:
    """One mistake in a config: `key` is the TOML key as a user would search for it (`optimizer.betas[1]`).

    It is shown without the credentials of any URI that it quotes.
    """

    key: str
    message: str

    def __str__(self) -> str:
        return redact(f"{self.key}: {self.message}" if self.key else self.message)


class ConfigError(DistillkitError):
    """All mistakes of one config at once.

    Args:
        mistakes: the mistakes, in the order in which they are shown.
        source: the file the config came from, if it came from one.
    """

    def __init__(self, mistakes: Iterable[Mistake], source: str = "config") -> None:
        self.mistakes = list(mistakes)
        self.source = source
        count = len(self.mistakes)
        lines = [f"{source}: {count} error{'s' if count != 1 else ''}", *(f"  {m}" for m in self.mistakes)]
        super().__init__("\n".join(lines))


class RunInterrupted(DistillkitError):
    """The run was stopped between two updates; what was written so far stays readable.

    Args:
        message: how far it is.
        number: the signal by which it was stopped: SIGINT (Ctrl-C) or SIGTERM.
    """

    def __init__(self, message: str = "", number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class Terminated(KeyboardInterrupt):
    """SIGTERM, where it interrupts at once as Ctrl-C does."""

    number = signal.SIGTERM


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """A handler of SIGTERM that raises as Ctrl-C does, so that open files and records are closed.

    Raises:
        Terminated: always.
    """
    raise Terminated


class GridError(DistillkitError):
    """A grid of times that the noise path cannot give."""
