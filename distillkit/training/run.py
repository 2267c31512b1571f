"""Runs a config: its phases one after the other, each from the result of the phase before."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from distillkit import distributed
from distillkit.config import Config, Settings, make_plan, read_choice, table_of_result
from distillkit.errors import ConfigError, DistillkitError, Mistake
from distillkit.evaluation import gains
from distillkit.files import replacing, sweep, write_text
from distillkit.interfaces import PREVIOUS, RunInfo, Tracker
from distillkit.terminal import Reporter, print_scores
from distillkit.training.assemble import load
from distillkit.training.checks import check_model, path_of
from distillkit.training.folder import RunFolder
from distillkit.training.phase import own_tracker, recorded, run_phase
from distillkit.training.seams import check_engine


def run(
    config: Config,
    folder: Path,
    resume: bool = False,
    allow: Collection[str] = (),
    ready: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Run a config.

    The folder of a run with one phase is the phase's. Several phases have their own folders, phases/1, phases/2, …
    In the end, the pipeline and the samples of the last phase are copied to the run's folder, scores.json has the
    teacher of the first phase and the student of the last one, and journal.jsonl has the updates of all phases, each
    with its "phase".

    Args:
        config: the checked config.
        folder: the run's folder. It must be empty or missing, unless `resume`.
        resume: whether to continue a run that was stopped. Finished phases are not run again.
        allow: keys or tables of the config that may have changed since the run was started.
        ready: called once the model is loaded and everything is found to fit, before anything is written.

    Returns:
        The rows of scores.json.

    Raises:
        DistillkitError: the user made a mistake, in which case nothing was overwritten, or a file cannot be written.
        RunInterrupted: a signal arrived. All files that were written are complete.
    """
    if distributed.world_size() > 1:
        # Joins the other processes: from here on they decide alike, and fail alike.
        engine = config.phases[0].components().engine
        engine.setup()
        check_engine(engine)
    tracker = own_tracker(config.phases[0])
    if len(config.phases) == 1:
        return run_phase(config.phases[0], folder, tracker, resume, allow=allow, ready=ready)
    with RunFolder(folder) as run_folder:
        if resume:
            changed = run_folder.open(config.tables, allow=allow)
            _check_finished_phases(changed, config, run_folder)
            if changed:
                run_folder.write_config(config.tables)
        else:
            run_folder.check_free()
            check_phases(config.phases)
            ready()
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
        for line in gains(rows, config.phases[-1].components()):
            Reporter(Console()).say(line)
    return rows


def check_phases(phases: Sequence[Settings]) -> None:
    """Check all phases against the model of the first one, before it starts.

    Raises:
        ConfigError: a phase does not fit the result of the phase before.
        DistillkitError: the device or the model does not exist.
    """
    # Checks the first one.
    model = load(phases[0].components()).components.model
    mistakes = []
    for i, phase in enumerate(phases[1:], 1):
        components = replace(phase.components(), model=model)
        path = path_of(model, phase.grid)
        # A student that starts with the result of the phase before has the first phase's model for its teacher.
        earlier = [] if phase.start == PREVIOUS else [phase.components() for phase in phases[:i]]
        mistakes += [
            Mistake(f"phase[{i}].{mistake.key}", mistake.message) for mistake in check_model(components, path, earlier)
        ]
    if mistakes:
        raise ConfigError(mistakes, phases[0].origin)


def _run_phases(config: Config, run_folder: RunFolder, tracker: Tracker, allow: Collection[str]) -> None:
    """Run the phases that are not finished."""
    for i, phase in enumerate(config.phases, 1):
        here = _folder(run_folder, i)
        if here.finished:
            # It may have been killed while it removed what it had written aside.
            distributed.on_main_process(partial(sweep, here.path))
        else:
            own = {re.sub(rf"^phase\[{i - 1}\]\.", "", key) for key in allow}
            # The user allows any change in this phase, or in all phases.
            if own & {"phase", f"phase[{i - 1}]"}:
                own |= phase.tables.keys()
            settings = from_result(phase, run_folder.path, i)
            run_phase(settings, here.path, tracker, here.begun, parent=run_folder.path, allow=own)


def _folder(run_folder: RunFolder, number: int) -> RunFolder:
    """The folder of a phase, counted from 1."""
    return RunFolder(run_folder.path / "phases" / str(number))


def _check_finished_phases(changed: Collection[str], config: Config, run_folder: RunFolder) -> None:
    """Check that the config has not changed in a finished phase.

    Raises:
        DistillkitError: it has.
    """
    for i, _ in enumerate(config.phases, 1):
        late = [key for key in changed if key.startswith(f"phase[{i - 1}].")]
        if late and _folder(run_folder, i).finished:
            raise DistillkitError(
                f"{run_folder.path}: phase {i} is finished, but the config has changed in {', '.join(late)}: change "
                "only later phases, or start again in another folder with --output"
            )


def from_result(phase: Settings, folder: Path, number: int) -> Settings:
    """The settings of a phase, counted from 1, with the result of the phase before as its model.

    If its student starts with that result, the model stays that of the first phase.

    Args:
        phase: the settings of the phase.
        folder: the run's folder.
        number: the number of the phase.
    """
    if number == 1:
        return phase
    result = folder / "phases" / str(number - 1) / "pipeline"
    if phase.student is not None and phase.start == PREVIOUS:
        student = phase.student.model_copy(update={"start": result})
        tables = {**phase.tables, "student": {**phase.tables["student"], "start": str(result)}}
        return replace(phase, student=student, tables=tables)
    table = table_of_result(phase.tables, result)
    choices = {**phase.choices, "model": [read_choice("model", table, phase.origin)]}
    return replace(phase, choices=choices, tables={**phase.tables, "model": table})


def _gather(config: Config, run_folder: RunFolder) -> list[dict[str, Any]]:
    """Write the run's own files from those of the phases."""
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
    # One that is for the first phase's network is the run's.
    if config.phases[-1].adapter is not None and config.phases[-1].start == PREVIOUS:
        _copy(phases[-1].lora, run_folder.lora)
    # The pipeline comes last: a run whose folder has one is finished.
    _copy(phases[-1].pipeline, run_folder.pipeline)
    return rows


def _copy(folder: Path, to: Path) -> None:
    def copy() -> None:
        with replacing(to) as temporary:
            shutil.copytree(folder, temporary)

    distributed.on_main_process(copy, to)


def _print(config: Config, run_folder: RunFolder) -> None:
    """Print the scores of the teacher, and of the student after each phase."""
    rows: list[dict[str, Any]] = []
    for i, phase in enumerate(config.phases, 1):
        scores = _folder(run_folder, i).read_scores()
        rows += [row for row in scores if i == 1 and row["model"] == "teacher"]
        label = f"after phase {i} ({phase.run.method})"
        rows += [row | {"model": label} for row in scores if row["model"] == "student"]
    print_scores(rows)
