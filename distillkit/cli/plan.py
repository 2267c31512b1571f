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
    from distillkit.config import make_plan, read_config

    settings = read_config(config, assignments)
    plan = make_plan(settings)
    if as_json:
        stages = [
            {"steps": part.stage.steps, "updates": part.stage.updates, "evaluations": part.evaluations} for part in plan
        ]
        echo_json({"updates": settings.run.updates, "stages": stages})
        return
    rows = [
        [str(n) for n in (i, part.stage.steps, part.stage.steps // part.stride, part.stage.updates, part.evaluations)]
        for i, part in enumerate(plan, 1)
    ]
    updates, evaluations = sum(part.stage.updates for part in plan), sum(part.evaluations for part in plan)
    rows.append(["all", "", "", str(updates), str(evaluations)])
    echo_table(["stage", "steps N", "student's steps", "updates", "evaluations"], rows, numbers=True)
