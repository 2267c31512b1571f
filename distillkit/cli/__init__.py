"""The command line. Each command is a file of its own, and imports what it needs when it runs."""

from __future__ import annotations

import signal

from distillkit.cli.group import cli
from distillkit.training.interrupt import terminate


def main() -> None:
    """The `distillkit` command."""
    signal.signal(signal.SIGTERM, terminate)
    cli(prog_name="distillkit")
