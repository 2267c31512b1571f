"""`distillkit track`: brings a tracker up to what a run's folder says."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.config import read_component
from distillkit.config.layers import read_toml
from distillkit.errors import DistillkitError
from distillkit.registry import load_registry
from distillkit.training.folder import RunFolder


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--uri", metavar="URI", help="Another MLflow store to send the whole run to. [default: RUN's own]")
def command(run: Path, uri: str | None) -> None:
    """Send what MLflow lacks of RUN, a run's folder: nothing is lost, and nothing is there twice.

    The store may have been down, or the run was killed before all was sent, or it was made with another tracker.
    """
    config = run / "config.toml"
    if not config.is_file():
        raise DistillkitError(f"{run}: holds no run (no config.toml)")
    tables = read_toml(config)
    # A chain is recorded as its first phase is.
    table = (
        tables.get("phase", [tables])[0]["tracker"]
        if uri is None
        else {"type": load_registry().default("tracker"), "uri": uri}
    )
    tracker = read_component("tracker", table, str(config) if uri is None else "--uri")
    # What is sent of a run that is still going on would be shown as killed.
    RunFolder(run).check_idle()
    click.echo(tracker.send(run))
