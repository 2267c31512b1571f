"""`distillkit run`: distil, evaluate, export, track."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.cli.options import config_argument, set_option
from distillkit.config import Chain, read_chain
from distillkit.training.chain import run_chain
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

    settings = read_chain(config, assignments)
    # After reading, so that a mistake shows before torch is loaded.
    if isinstance(settings, Chain):
        run_chain(settings, output or Path("runs", settings.name), resume=resume, allow=allow)
        return

    run(settings, output or Path("runs", settings.run.name), resume=resume, allow=allow)
