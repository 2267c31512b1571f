"""The command line. Each command is a file of its own, and imports what it needs when it runs."""

from __future__ import annotations

from distillkit.cli.group import cli


def main() -> None:
    """The `distillkit` command."""
    cli(prog_name="distillkit")
