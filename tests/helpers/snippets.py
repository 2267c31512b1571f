"""Pieces of Markdown pages, for the tests that try them out."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

import click

from distillkit.cli.group import cli

ROOT = Path(__file__).parents[2]


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def shell_commands(page: Path) -> list[list[str]]:
    """The words of every command in a page's shell blocks; `a && b` are two."""
    lines = [line for block in blocks(page, "bash", "sh", "shell") for line in block.replace("\\\n", " ").splitlines()]
    lines += [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [command for command in words if command]


def parse(words: list[str]) -> None:
    """Read a command as `distillkit` would, without running it.

    Raises:
        click.UsageError: there is no such command, option or choice.
    """
    name, *rest = words[1:]
    if name in ("--help", "--version"):
        return
    command = cli.get_command(click.Context(cli), name)
    if command is None:
        raise click.UsageError(f"no such command: {name}")
    with contextlib.suppress(click.exceptions.Exit):  # after --help
        command.make_context(name, rest)
