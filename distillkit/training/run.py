"""Carries out a config: its phases one after the other, each from the result of the one before."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from distillkit import distributed
from distillkit.config import Config, Settings, make_plan, read_choice, table_of_result
from distillkit.errors import ConfigError, DistillkitError, Mistake
from distillkit.files import replacing, write_text
from distillkit.interfaces import RunInfo, Tracker
from distillkit.terminal import Reporter, print_scores
from distillkit.training.assemble import load
from distillkit.training.checks import check_model
from distillkit.training.folder import RunFolder
from distillkit.training.phase import own_tracker, recorded, run_phase


def run(config: Config, folder: Path, resume: bool = False, allow: Collection[str] = ()) -> list[dict[str, Any]]:
    """Carry out a config.

    A run of one phase has the phase's folder. Several phases have folders of their own, phases/1, phases/2, …; what the
    last one leaves is also the run's: its pipeline and its samples. scores.json then has the first phase's teacher and
    the last one's student, and journal.jsonl has all phases, told apart by "phase".

    Args:
        config: the checked config.
        folder: the run's folder; must not hold anything yet, unless `resume`.
        resume: go on from where the run was stopped. A phase that is finished is not carried out again.
        allow: keys of the config, or tables, that may have changed since the run began.

    Returns:
        the rows of scores.json.

    Raises:
        DistillkitError: a fault in what the user gave, found before anything was overwritten; or something cannot be
            written.
        RunInterrupted: Ctrl-C or SIGTERM; what was written so far stays readable.
    """
    if distributed.world_size() > 1:
        # Joins the other processes: from here on they decide alike, and fail alike.
        config.phases[0].components().engine.setup()
    tracker = own_tracker(config.phases[0])
    if len(config.phases) == 1:
        return run_phase(config.phases[0], folder, tracker, resume, allow=allow)
    with RunFolder(folder) as run_folder:
        if resume:
            changed = run_folder.open(config.tables, allow=allow)
            _check_yet_to_come(changed, config, run_folder)
            if changed:
                run_folder.write_config(config.tables)
        else:
            run_folder.check_free()
            check_phases(config.phases)
            run_folder.create(config.tables)
        plan = [stage for phase in config.phases for stage in make_plan(phase.components())]
        info = RunInfo(config.name, folder, plan, resume)
        with recorded(tracker, info, run_folder.discard if not resume else lambda: None):
            if run_folder.finished:
                Reporter(Console()).say(f"{folder}: this run is finished")
                rows = run_folder.read_scores()
            else:
                _run_phases(config, run_folder, tracker, allow)
                rows = _gather(config, run_folder)
        _print(config, run_folder)
    return rows


def check_phases(phases: Sequence[Settings]) -> None:
    """Check all phases against the model that the first one loads, before it begins.

    Raises:
        ConfigError: a phase does not fit what the one before will leave.
        DistillkitError: the device or the model is not there.
    """
    model = load(phases[0].components()).components.model
    mistakes = []
    for i, phase in enumerate(phases):
        components = replace(phase.components(), model=model)
        path = model.spec.with_grid(phase.grid.spacing, phase.grid.start).path
        found = check_model(components, path, make_plan(components), [earlier.components() for earlier in phases[:i]])
        mistakes += [Mistake(f"phase[{i}].{mistake.key}", mistake.message) for mistake in found]
    if mistakes:
        raise ConfigError(mistakes, phases[0].origin)


def _run_phases(config: Config, run_folder: RunFolder, tracker: Tracker, allow: Collection[str]) -> None:
    """The phases that are not finished."""
    for i, phase in enumerate(config.phases, 1):
        here = _folder(run_folder, i)
        if not here.finished:
            own = {re.sub(rf"^phase\[{i - 1}\]\.", "", key) for key in allow}
            # All of a phase, or of all phases, may change.
            if own & {"phase", f"phase[{i - 1}]"}:
                own |= phase.tables.keys()
            settings = from_result(phase, run_folder.path, i)
            run_phase(settings, here.path, tracker, here.begun, parent=run_folder.path, allow=own)


def _folder(run_folder: RunFolder, number: int) -> RunFolder:
    """The folder of a phase, from 1."""
    return RunFolder(run_folder.path / "phases" / str(number))


def _check_yet_to_come(changed: Collection[str], config: Config, run_folder: RunFolder) -> None:
    """A phase that is finished has its config.

    Raises:
        DistillkitError: it has changed.
    """
    for i, _ in enumerate(config.phases, 1):
        late = [key for key in changed if key.startswith(f"phase[{i - 1}].")]
        if late and _folder(run_folder, i).finished:
            raise DistillkitError(
                f"{run_folder.path}: phase {i} is finished, and the config has changed in {', '.join(late)}: change "
                "only what is yet to come, or begin anew in another folder with --output"
            )


def from_result(phase: Settings, folder: Path, number: int) -> Settings:
    """Phase `number`, from 1, of the run in a folder, with the result of the one before as its model."""
    if number == 1:
        return phase
    table = table_of_result(phase.tables, folder / "phases" / str(number - 1) / "pipeline")
    choices = {**phase.choices, "model": [read_choice("model", table, phase.origin)]}
    return replace(phase, choices=choices, tables={**phase.tables, "model": table})


def _gather(config: Config, run_folder: RunFolder) -> list[dict[str, Any]]:
    """Make the run's own files from the phases'."""
    phases = [_folder(run_folder, i) for i, _ in enumerate(config.phases, 1)]
    lines = (
        json.dumps({"phase": i, **json.loads(line)}) + "\n"
        for i, phase in enumerate(phases, 1)
        for line in phase.journal.read_text(encoding="utf-8").splitlines()
    )
    distributed.on_main_process(lambda: write_text(run_folder.journal, "".join(lines)), run_folder.journal)
    first, last = phases[0].read_scores(), phases[-1].read_scores()
    rows = [row for row in first if row["model"] == "teacher"] + [row for row in last if row["model"] == "student"]
    run_folder.write_scores(rows)
    _copy(phases[-1].samples, run_folder.samples)
    # The pipeline last: where it is, the run is over.
    _copy(phases[-1].pipeline, run_folder.pipeline)
    return rows


def _copy(folder: Path, to: Path) -> None:
    def copy() -> None:
        with replacing(to) as temporary:
            shutil.copytree(folder, temporary)

    distributed.on_main_process(copy, to)


def _print(config: Config, run_folder: RunFolder) -> None:
    """One table: the teacher, and the student after each phase."""
    rows: list[dict[str, Any]] = []
    for i, phase in enumerate(config.phases, 1):
        found = _folder(run_folder, i).read_scores()
        rows += [row for row in found if i == 1 and row["model"] == "teacher"]
        label = f"after phase {i} ({phase.run.method})"
        rows += [row | {"model": label} for row in found if row["model"] == "student"]
    print_scores(rows)
