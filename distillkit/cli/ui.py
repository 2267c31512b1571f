"""`distillkit ui`: opens the tracker's UI in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.config import read_component
from distillkit.config.layers import read_toml
from distillkit.registry import load_registry


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--store", metavar="URI", help="A store of the default tracker. [default: the run's, or the tracker's]")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
def command(run: Path | None, store: str | None, port: int) -> None:
    """Serve the UI of the store that has RUN, a run's folder, until Ctrl-C."""
    registry = load_registry()
    table = registry.table("tracker")
    origin = "tracker"
    if run is not None:
        origin = str(run / "config.toml")
        tables = read_toml(run / "config.toml")
        # All phases use the tracker of the first one.
        table = tables.get("phase", [tables])[0].get("tracker", table)
    if store is not None:
        table = registry.table("tracker", store=store)
        origin = "--store"
    tracker = read_component("tracker", table, origin)
    tracker.open_ui(port, run if store is None else None)
