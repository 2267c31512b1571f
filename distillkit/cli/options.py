"""Arguments and options of several commands, and their JSON output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

config_argument = click.argument("config", type=click.Path(path_type=Path))

set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a value of the config, as in run.updates=100 or loss[0].weight=2. May be repeated.",
)

prompts_option = click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A text file with a prompt on each line, for a model that takes text. [default: the run's prompts]",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def parse_steps(ctx: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    """Parse `2,4,8` as [2, 4, 8]. A number that is given twice counts once."""
    try:
        steps = [int(part) for part in value.split(",")]
    except ValueError:
        steps = [0]
    if min(steps) < 1:
        raise click.BadParameter(f"expected whole numbers from 1, as in 2,4,8 (got '{value}')")
    return [*dict.fromkeys(steps)]


def echo_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
