"""`distillkit plan`: what a run will do."""

from __future__ import annotations

from pathlib import Path

import click

from distillkit.cli.options import config_argument, echo_json, echo_table, json_option, set_option


@click.command()
@config_argument
@set_option
@json_option
def command(config: Path, assignments: tuple[str, ...], as_json: bool) -> None:
    """Show the stages of CONFIG: the grid's steps N, the steps that the student learns to do with, parameter
    updates and network evaluations."""
    from distillkit.config import Chain, make_plan, read_chain

    settings = read_chain(config, assignments)
    phases = settings.phases if isinstance(settings, Chain) else [settings]
    stages = [(number, part) for number, phase in enumerate(phases, 1) for part in make_plan(phase)]
    updates = sum(part.stage.updates for _, part in stages)
    # A config without phases says nothing of them.
    chained = isinstance(settings, Chain)
    if as_json:
        found = [
            ({"phase": number} if chained else {})
            | {"steps": part.stage.steps, "updates": part.stage.updates, "evaluations": part.evaluations}
            for number, part in stages
        ]
        echo_json({"updates": updates, "stages": found})
        return
    rows = [
        [
            *([str(number)] if chained else []),
            *map(str, (i, part.stage.steps, part.stage.steps // part.stride, part.stage.updates, part.evaluations)),
        ]
        for i, (number, part) in enumerate(stages, 1)
    ]
    evaluations = sum(part.evaluations for _, part in stages)
    rows.append(["all", *([""] if chained else []), "", "", str(updates), str(evaluations)])
    columns = ["stage", "steps N", "student's steps", "updates", "evaluations"]
    echo_table(["phase", *columns] if chained else columns, rows, numbers=True)
