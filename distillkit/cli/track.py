"""`distillkit track`: sends a run to its tracker."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.config import read_component
from distillkit.config.layers import read_toml
from distillkit.errors import DistillkitError
from distillkit.registry import checked, load_registry
from distillkit.training.folder import RunFolder


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--uri", metavar="URI", help="Send the whole run to this store. [default: the run's own]")
def command(run: Path, uri: str | None) -> None:
    """Send everything of RUN, a run's folder, that the tracker's store does not have yet. Nothing is sent twice.

    Use it if the store was down, if the run was killed before everything was sent, or if it had another tracker.
    """
    config = run / "config.toml"
    if not config.is_file():
        raise DistillkitError(f"{run}: holds no run (no config.toml)")
    tables = read_toml(config)
    # All phases use the tracker of the first one.
    table = tables.get("phase", [tables])[0]["tracker"] if uri is None else load_registry().table("tracker", store=uri)
    tracker = read_component("tracker", table, str(config) if uri is None else "--uri")
    # What is sent of a run that is still going on would be shown as killed.
    RunFolder(run).check_idle()
    sent = tracker.send(run)
    click.echo(checked(tracker, "send()", sent, isinstance(sent, str), "a line that says what was sent"))
