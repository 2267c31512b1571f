"""Arguments that several commands take, and how they print."""

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
    help="Lay a value over the config, as in run.updates=100 or loss[0].weight=2. May be given again and again.",
)

prompts_option = click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A text file with a prompt on each line, for a model that takes text. [default: the run's prompts]",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


def parse_steps(ctx: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    """`2,4,8` -> [2, 4, 8]; a number given twice counts once."""
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
