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
    updates and network evaluations.

    A row "before" has the evaluations that a source makes before the first update (of each phase), if no run has made
    any of them yet.
    """
    from distillkit.config import Chain, evaluations_before, make_plan, read_chain

    settings = read_chain(config, assignments)
    phases = settings.phases if isinstance(settings, Chain) else [settings]
    plans = [make_plan(phase) for phase in phases]
    stages = [(number, part) for number, plan in enumerate(plans, 1) for part in plan]
    before = sum(evaluations_before(phase, plan) for phase, plan in zip(phases, plans, strict=True))
    updates = sum(part.stage.updates for _, part in stages)
    # A config without phases says nothing of them.
    chained = isinstance(settings, Chain)
    if as_json:
        found = [
            ({"phase": number} if chained else {})
            | {"steps": part.stage.steps, "updates": part.stage.updates, "evaluations": part.evaluations}
            for number, part in stages
        ]
        echo_json({"updates": updates} | ({"before": before} if before else {}) | {"stages": found})
        return
    rows = [
        [
            *([str(number)] if chained else []),
            *map(str, (i, part.stage.steps, part.stage.steps // part.stride, part.stage.updates, part.evaluations)),
        ]
        for i, (number, part) in enumerate(stages, 1)
    ]
    empty = [""] * (3 if chained else 2)
    if before:
        rows.insert(0, ["before", *empty, "0", str(before)])
    evaluations = before + sum(part.evaluations for _, part in stages)
    rows.append(["all", *empty, str(updates), str(evaluations)])
    columns = ["stage", "steps N", "student's steps", "updates", "evaluations"]
    echo_table(["phase", *columns] if chained else columns, rows, numbers=True)
