"""Carries out a chain: one run after the other, each from the result of the one before."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from distillkit import distributed, interfaces
from distillkit.config import Chain, Settings, make_plan, read_component, table_of_result
from distillkit.errors import DistillkitError
from distillkit.evaluation import tables
from distillkit.files import replacing, write_text, writing
from distillkit.interfaces import RunInfo
from distillkit.training.assemble import check_phases
from distillkit.training.folder import RunFolder
from distillkit.training.record import own_tracker, recorded
from distillkit.training.run import run
from distillkit.training.terminal import Reporter


def run_chain(chain: Chain, folder: Path, resume: bool = False, allow: Collection[str] = ()) -> list[dict[str, Any]]:
    """Carry out the phases that are not done yet, each in a run's folder of its own: phases/1, phases/2, …

    What the last one leaves is also the chain's: its pipeline and its samples. scores.json has the first phase's
    teacher and the last one's student; journal.jsonl has all phases, told apart by "phase".

    Args:
        chain: the checked config.
        folder: the chain's folder; must not hold anything yet, unless `resume`.
        resume: go on with the phase that was stopped.
        allow: keys of the config, or tables, that may have changed since the run began.

    Returns:
        the rows of scores.json.

    Raises:
        DistillkitError: a fault in what the user gave, or something cannot be written.
        RunInterrupted: Ctrl-C or SIGTERM; what was written so far stays readable.
    """
    with RunFolder(folder) as place:
        if resume:
            changed = place.open(chain.tables, allow=allow)
            _check_yet_to_come(changed, chain, place)
            if changed:
                place.write_config(chain.tables)
        else:
            place.check_free()
            check_phases(chain.phases)
            place.create(chain.tables)
        info = RunInfo(chain.name, folder, _plan(chain), resume)
        tracker = own_tracker(chain.tracker)
        with recorded(tracker, info, place.discard if not resume else lambda: None):
            if place.finished:
                Reporter(Console()).say(f"{folder}: this run is finished")
                rows = place.read_scores()
            else:
                _carry_out(chain, place, allow, tracker)
                rows = _gather(chain, place) if distributed.is_main_process() else []
        if distributed.is_main_process():
            _print(chain, place)
    return rows


def _carry_out(chain: Chain, place: RunFolder, allow: Collection[str], tracker: interfaces.Tracker) -> None:
    """The phases that are not finished, with the chain's tracker."""
    for i, phase in enumerate(chain.phases, 1):
        here = _folder(place, i)
        if not here.finished:
            own = {re.sub(rf"^phase\[{i - 1}\]\.", "", key) for key in allow}
            # A copy, so that what it loads is gone when it is over.
            settings = replace(copy.deepcopy(from_result(phase, place.path, i)), tracker=tracker)
            run(settings, here.path, resume=here.config.is_file(), parent=place.path, allow=own)


def _folder(place: RunFolder, number: int) -> RunFolder:
    """The folder of a phase, from 1."""
    return RunFolder(place.path / "phases" / str(number))


def _check_yet_to_come(changed: Collection[str], chain: Chain, place: RunFolder) -> None:
    """A phase that is finished has its config.

    Raises:
        DistillkitError: it has changed.
    """
    for i, _ in enumerate(chain.phases, 1):
        late = [key for key in changed if key.startswith(f"phase[{i - 1}].")]
        if late and _folder(place, i).finished:
            raise DistillkitError(
                f"{place.path}: phase {i} is finished, and the config has changed in {', '.join(late)}: change only "
                "what is yet to come, or begin anew in another folder with --output"
            )


def _plan(chain: Chain) -> list[tuple[int, int, int]]:
    stages = [stage for phase in chain.phases for stage in make_plan(phase)]
    return [(stage.steps, stage.updates, stage.updates * stage.evaluations) for stage in stages]


def from_result(phase: Settings, folder: Path, number: int) -> Settings:
    """Phase `number`, from 1, of the chain in a folder, with the result of the one before as its model."""
    if number == 1:
        return phase
    table = table_of_result(phase.tables, folder / "phases" / str(number - 1) / "pipeline")
    model = cast(interfaces.Model, read_component("model", table, phase.origin))
    return replace(phase, model=model, tables={**phase.tables, "model": table})


def _gather(chain: Chain, place: RunFolder) -> list[dict[str, Any]]:
    """Make the chain's own files from the phases'."""
    phases = [_folder(place, i) for i, _ in enumerate(chain.phases, 1)]
    lines = [
        json.dumps({"phase": i, **json.loads(line)}) + "\n"
        for i, phase in enumerate(phases, 1)
        for line in phase.journal.read_text(encoding="utf-8").splitlines()
    ]
    with writing(place.journal):
        write_text(place.journal, "".join(lines))
    first, last = (phase.read_scores() for phase in (phases[0], phases[-1]))
    rows = [row for row in first if row["model"] == "teacher"] + [row for row in last if row["model"] == "student"]
    place.write_scores(rows)
    # The pipeline last: where it is, the chain is done.
    for name in ("samples", "pipeline"):
        path = place.path / name
        with writing(path), replacing(path) as temporary:
            shutil.copytree(phases[-1].path / name, temporary)
    return rows


def _print(chain: Chain, place: RunFolder) -> None:
    """One table: the teacher, and the student after each phase."""
    rows: list[dict[str, Any]] = []
    for i, phase in enumerate(chain.phases, 1):
        found = _folder(place, i).read_scores()
        rows += [row for row in found if i == 1 and row["model"] == "teacher"]
        label = f"after phase {i} ({phase.run.method})"
        rows += [row | {"model": label} for row in found if row["model"] == "student"]
    console = Console()
    for table in tables(rows):
        console.print(table)
