"""`distillkit plan`: what a run will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distillkit.cli import measure as measuring
from distillkit.cli.options import config_argument, echo_json, json_option, set_option
from distillkit.config import evaluations_before, make_plan, read_config
from distillkit.terminal import clock, print_table


@click.command()
@config_argument
@set_option
@click.option("--measure", is_flag=True, help="Also make a few updates, and say what time and memory to expect here.")
@json_option
def command(config: Path, assignments: tuple[str, ...], measure: bool, as_json: bool) -> None:
    """Show the stages of CONFIG: the grid's steps N, the steps that the student learns to do with, parameter
    updates and network evaluations.

    A row "before" has the evaluations that a source makes before the first update (of each phase), if no run has made
    any of them yet.
    """
    settings = read_config(config, assignments).phases
    chained = len(settings) > 1
    phases = [phase.components() for phase in settings]
    plans = [make_plan(phase) for phase in phases]
    stages: list[dict[str, Any]] = [
        # A config of one phase does not number it.
        ({"phase": number} if chained else {})
        | {"steps": part.steps, "updates": part.updates, "evaluations": part.all_evaluations}
        for number, plan in enumerate(plans, 1)
        for part in plan
    ]
    jumps = [part.jumps for plan in plans for part in plan]
    before = sum(evaluations_before(phase, plan) for phase, plan in zip(phases, plans, strict=True))
    found: dict[str, Any] = {"updates": sum(stage["updates"] for stage in stages), "stages": stages}
    if before:
        found["before"] = before
    if measure:
        measured, memory, device = measuring.measure(settings)
        for stage, seconds in zip(stages, (time for phase in measured for time in phase.stages), strict=True):
            stage["seconds"] = round(seconds, 3)
        found["measured"] = {
            "device": device,
            **({"before_seconds": round(sum(phase.before for phase in measured), 3)} if before else {}),
            "update_seconds": round(sum(stage["seconds"] for stage in stages), 3),
            "scoring_seconds": round(sum(phase.scoring for phase in measured), 3),
            "memory_bytes": memory,
        }
    if as_json:
        echo_json(found)
        return

    columns = [*(["phase"] if chained else []), "stage", "steps N", "student's steps", "updates", "evaluations"]
    empty = [""] * (3 if chained else 2)
    rows = []
    if before:
        took = [clock(found["measured"]["before_seconds"])] if measure else []
        rows.append(["before", *empty, "0", str(before), *took])
    for i, (stage, jump) in enumerate(zip(stages, jumps, strict=True), 1):
        numbers = [i, stage["steps"], jump, stage["updates"], stage["evaluations"]]
        phase, took = [stage["phase"]] if chained else [], [clock(stage["seconds"])] if measure else []
        rows.append([str(cell) for cell in (*phase, *numbers, *took)])
    evaluations = before + sum(stage["evaluations"] for stage in stages)
    rows.append(["all", *empty, str(found["updates"]), str(evaluations)])
    if measure:
        columns.append("time")
        told = found["measured"]
        rows[-1].append(clock(told.get("before_seconds", 0.0) + told["update_seconds"]))
    print_table(columns, rows, numbers=1)
    if measure:
        made = f"{clock(told['before_seconds'])} before the updates, " if before else ""
        click.echo(
            f"\nexpected on {told['device']}: {made}{clock(told['update_seconds'])} in updates, "
            f"{clock(told['scoring_seconds'])} in scoring, {told['memory_bytes'] / 1e9:.1f} GB of memory"
        )
