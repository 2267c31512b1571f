"""`distillkit ui`: what the tracker recorded, in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.config import read_component
from distillkit.config.layers import read_toml
from distillkit.registry import load_registry


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--store", metavar="URI", help="MLflow's store. [default: RUN's, or sqlite:///mlflow.db]")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def command(run: Path | None, store: str | None, port: int) -> None:
    """Open the UI of the store that RUN, a run's folder, was recorded in, until Ctrl-C."""
    default = table = {"type": load_registry().default("tracker")}
    origin = "tracker"
    if run is not None:
        origin = str(run / "config.toml")
        tables = read_toml(run / "config.toml")
        # A chain is recorded as its first phase is.
        table = tables.get("phase", [tables])[0].get("tracker", table)
    if store is not None:
        table = {**default, "uri": store}
        origin = "--store"
    tracker = read_component("tracker", table, origin)
    tracker.open_ui(port)
