"""`distillkit plugins`: lists what is installed."""

from __future__ import annotations

from dataclasses import asdict

import click

from distillkit.cli.options import echo_json, json_option
from distillkit.registry import load_registry
from distillkit.terminal import print_table


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List all components and presets with their packages, and the plugins that did not load with the reason."""
    registry = load_registry()
    components = [
        {"kind": kind, "name": name, "package": plugin.package, "version": plugin.version}
        for kind, name, plugin in registry.listed()
    ]
    if as_json:
        echo_json({"components": components, "broken": [asdict(plugin) for plugin in registry.broken]})
        return
    print_table(["kind", "name", "package", "version"], [[*row.values()] for row in components])
    if registry.broken:
        click.echo(f"\n{len(registry.broken)} not working:")
        rows = [[plugin.name, plugin.package, plugin.version, plugin.reason] for plugin in registry.broken]
        print_table(["plugin", "package", "version", "reason"], rows)
