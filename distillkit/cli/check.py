"""`distillkit check`: every mistake of a config at once."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.cli.options import config_argument, set_option
from distillkit.config import read_config


@click.command()
@config_argument
@set_option
def command(config: Path, assignments: tuple[str, ...]) -> None:
    """Report all mistakes in CONFIG, each with its TOML key.

    The exit code is 0 if there are none, and 2 otherwise.
    """
    read_config(config, assignments)
    click.echo(f"{config}: ok")
