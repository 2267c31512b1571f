"""`distillkit run`: trains, scores and exports a model as a config says."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.cli.options import config_argument, set_option
from distillkit.config import read_config
from distillkit.training.run import run


@click.command()
@config_argument
@set_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The run's folder. [default: runs/ and the run's name]",
)
@click.option("--resume", is_flag=True, help="Continue from the folder's newest checkpoint.")
@click.option(
    "--allow-change",
    "allow",
    multiple=True,
    metavar="KEY",
    help="With --resume: allow changes of the config in KEY, a key or a table. May be repeated.",
)
def command(
    config: Path, assignments: tuple[str, ...], output: Path | None, resume: bool, allow: tuple[str, ...]
) -> None:
    """Distil (or train) a model as CONFIG says, score it, and write everything to the run's folder."""
    read = read_config(config, assignments)
    run(read, output or Path("runs", read.name), resume=resume, allow=allow)
