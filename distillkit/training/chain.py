"""Carries out a chain: one run after the other, each from the result of the one before."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from distillkit import interfaces, workers
from distillkit.config import Chain, Settings, make_plan, read_component, table_of_result
from distillkit.errors import RunInterrupted
from distillkit.evaluation import tables
from distillkit.interfaces import RunInfo
from distillkit.training.assemble import check_phases
from distillkit.training.folder import RunFolder
from distillkit.training.recording import own_tracker
from distillkit.training.run import run


def run_chain(chain: Chain, folder: Path, resume: bool = False) -> list[dict[str, Any]]:
    """Carry out the phases that are not done yet, each in a run's folder of its own: phases/1, phases/2, …

    What the last one leaves is also the chain's: its pipeline and its samples. scores.json has the first phase's
    teacher and the last one's student; journal.jsonl has all phases, told apart by "phase".

    Args:
        chain: the checked config.
        folder: the chain's folder; must not hold anything yet, unless `resume`.
        resume: go on with the phase that was stopped.

    Returns:
        the rows of scores.json.

    Raises:
        DistillkitError: a fault in what the user gave.
        RunInterrupted: Ctrl-C; what was written so far stays readable.
    """
    place = RunFolder(folder)
    if resume:
        place.open(chain.tables)
    else:
        place.check_free()
        check_phases(chain.phases)
        # All have seen that it was free.
        workers.barrier()
        if workers.is_first():
            place.create(chain.tables)
    tracker = own_tracker(chain.tracker, chain.phases[0].origin)
    try:
        tracker.start(RunInfo(chain.name, folder, chain.tables, _plan(chain), resume))
    except BaseException:
        if not resume and workers.is_first():
            place.discard()
        raise
    try:
        for i, phase in enumerate(chain.phases, 1):
            here = folder / "phases" / str(i)
            if not (here / "pipeline").is_dir():
                began = (here / "config.toml").is_file()
                # A copy, so that what it loads is gone when it is over.
                run(copy.deepcopy(from_result(phase, folder, i)), here, resume=began, parent=folder)
        rows = _gather(chain, place) if workers.is_first() else []
        tracker.log_scores(rows)
        for file in (place.config, place.scores, place.journal):
            tracker.log_file(file)
    except (KeyboardInterrupt, RunInterrupted):
        tracker.finish("killed")
        raise
    except BaseException:
        tracker.finish("failed")
        raise
    tracker.finish("finished")
    if workers.is_first():
        _print(chain, place)
    return rows


def _plan(chain: Chain) -> list[tuple[int, int, int]]:
    stages = [planned for phase in chain.phases for planned in make_plan(phase)]
    return [(planned.stage.steps, planned.stage.updates, planned.evaluations) for planned in stages]


def from_result(phase: Settings, folder: Path, number: int) -> Settings:
    """Phase `number`, from 1, of the chain in a folder, with the result of the one before as its model."""
    if number == 1:
        return phase
    table = table_of_result(phase.tables, folder / "phases" / str(number - 1) / "pipeline")
    model = cast(interfaces.Model, read_component("model", table, phase.origin))
    return replace(phase, model=model, tables={**phase.tables, "model": table})


def _gather(chain: Chain, place: RunFolder) -> list[dict[str, Any]]:
    """Make the chain's own files from the phases'."""
    phases = [RunFolder(place.path / "phases" / str(i)) for i, _ in enumerate(chain.phases, 1)]
    with place.journal.open("w", encoding="utf-8") as file:
        for i, phase in enumerate(phases, 1):
            for line in phase.journal.read_text(encoding="utf-8").splitlines():
                file.write(json.dumps({"phase": i, **json.loads(line)}) + "\n")
    first, last = (json.loads(phase.scores.read_text(encoding="utf-8")) for phase in (phases[0], phases[-1]))
    rows = [row for row in first if row["model"] == "teacher"] + [row for row in last if row["model"] == "student"]
    place.write_scores(rows)
    shutil.copytree(phases[-1].samples, place.samples, dirs_exist_ok=True)
    # Last and at once: where it is, the chain is done.
    aside = place.pipeline.with_name(f".{place.pipeline.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(phases[-1].pipeline, aside)
    shutil.rmtree(place.pipeline, ignore_errors=True)
    aside.rename(place.pipeline)
    return rows


def _print(chain: Chain, place: RunFolder) -> None:
    """One table: the teacher, and the student after each phase."""
    rows: list[dict[str, Any]] = []
    for i, phase in enumerate(chain.phases, 1):
        scores = RunFolder(place.path / "phases" / str(i)).scores
        found = json.loads(scores.read_text(encoding="utf-8"))
        rows += [row for row in found if i == 1 and row["model"] == "teacher"]
        label = f"after phase {i} ({phase.run.method})"
        rows += [row | {"model": label} for row in found if row["model"] == "student"]
    console = Console()
    for table in tables(rows):
        console.print(table)
