"""`distillkit check`: every mistake of a config at once."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.cli.options import config_argument, set_option
from distillkit.config import read_config, unreached


@click.command()
@config_argument
@set_option
def command(config: Path, assignments: tuple[str, ...]) -> None:
    """Report all mistakes in CONFIG, each with its TOML key.

    The exit code is 0 if there are none, and 2 otherwise.
    """
    phases = read_config(config, assignments).phases
    click.echo(f"{config}: ok")
    for note in filter(None, (unreached(phase.components()) for phase in phases)):
        click.echo(f"  but {note}")
