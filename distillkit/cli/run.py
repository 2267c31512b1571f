"""`distillkit run`: distil, evaluate, export, track."""

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
@click.option("--resume", is_flag=True, help="Go on from the folder's newest checkpoint.")
@click.option(
    "--allow-change",
    "allow",
    multiple=True,
    metavar="KEY",
    help="With --resume: let the config differ from the run's in KEY, a key or a table. May be given again.",
)
def command(
    config: Path, assignments: tuple[str, ...], output: Path | None, resume: bool, allow: tuple[str, ...]
) -> None:
    """Distil (or train) as CONFIG says, score the result, and write it all to the run's folder."""
    read = read_config(config, assignments)
    run(read, output or Path("runs", read.name), resume=resume, allow=allow)
