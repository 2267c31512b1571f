"""What can go wrong for a user, as one clear sentence each. The command line turns these into exit code 2."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass


class DistillkitError(Exception):
    """A fault in what the user gave: its message names the thing, what was expected and what to do."""


@dataclass(frozen=True)
class Mistake:
    """One mistake in a config: `key` is the TOML key as a user would search for it (`optimizer.betas[1]`)."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


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


class GridError(DistillkitError):
    """A grid of times that the noise path cannot give."""
