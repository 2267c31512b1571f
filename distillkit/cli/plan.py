"""`distillkit plan`: the stages of a run and their cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distillkit.cli import measure as measuring
from distillkit.cli.options import config_argument, echo_json, json_option, set_option
from distillkit.config import evaluations_before, make_plan, read_config, unreached
from distillkit.files import readable_bytes
from distillkit.terminal import clock, print_table


@click.command()
@config_argument
@set_option
@click.option("--measure", is_flag=True, help="Also run a few updates, and estimate time and memory on this machine.")
@json_option
def command(config: Path, assignments: tuple[str, ...], measure: bool, as_json: bool) -> None:
    """Show the stages of CONFIG: the steps N of the grid, the student's sampling steps, parameter updates and
    network evaluations.

    A row "before" has the evaluations that a source makes before the first update, if no earlier run has made any of
    them.
    """
    settings = read_config(config, assignments).phases
    several = len(settings) > 1
    phases = [phase.components() for phase in settings]
    plans = [make_plan(phase) for phase in phases]
    stages: list[dict[str, Any]] = [
        ({"phase": number} if several else {})
        | {"steps": stage.steps, "updates": stage.updates, "evaluations": stage.all_evaluations}
        for number, plan in enumerate(plans, 1)
        for stage in plan
    ]
    jumps = [
        ", ".join(map(str, phase.source.levels)) or stage.jumps
        for phase, plan in zip(phases, plans, strict=True)
        for stage in plan
    ]
    before = sum(evaluations_before(phase, plan) for phase, plan in zip(phases, plans, strict=True))
    report: dict[str, Any] = {"updates": sum(stage["updates"] for stage in stages), "stages": stages}
    if before:
        report["before"] = before
    if measure:
        times, memory, device = measuring.measure(settings)
        for stage, seconds in zip(stages, (time for phase in times for time in phase.stages), strict=True):
            stage["seconds"] = round(seconds, 3)
        report["measured"] = {
            "device": device,
            **({"before_seconds": round(sum(phase.before for phase in times), 3)} if before else {}),
            "update_seconds": round(sum(stage["seconds"] for stage in stages), 3),
            "scoring_seconds": round(sum(phase.scoring for phase in times), 3),
            "memory_bytes": memory,
        }
    if as_json:
        echo_json(report)
        return

    columns = [*(["phase"] if several else []), "stage", "steps N", "student's steps", "updates", "evaluations"]
    empty = [""] * (3 if several else 2)
    rows = []
    if before:
        took = [clock(report["measured"]["before_seconds"])] if measure else []
        rows.append(["before", *empty, "0", str(before), *took])
    for i, (stage, jump) in enumerate(zip(stages, jumps, strict=True), 1):
        numbers = [i, stage["steps"], jump, stage["updates"], stage["evaluations"]]
        phase, took = [stage["phase"]] if several else [], [clock(stage["seconds"])] if measure else []
        rows.append([str(cell) for cell in (*phase, *numbers, *took)])
    evaluations = before + sum(stage["evaluations"] for stage in stages)
    rows.append(["all", *empty, str(report["updates"]), str(evaluations)])
    if measure:
        columns.append("time")
        measured = report["measured"]
        rows[-1].append(clock(measured.get("before_seconds", 0.0) + measured["update_seconds"]))
    print_table(columns, rows, numbers=1)
    for note in filter(None, map(unreached, phases)):
        click.echo(f"\n{note}")
    if measure:
        made = f"{clock(measured['before_seconds'])} before the updates, " if before else ""
        click.echo(
            f"\nexpected on {measured['device']}: {made}{clock(measured['update_seconds'])} in updates, "
            f"{clock(measured['scoring_seconds'])} in scoring, {readable_bytes(measured['memory_bytes'])} of memory"
        )
