"""Runs one phase: scores the teacher, trains, scores the student, and exports it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from distillkit import distributed
from distillkit.config import Components, Settings, best_score, make_plan, unreached
from distillkit.errors import RunInterrupted, Terminated
from distillkit.evaluation import gains
from distillkit.interfaces import NoTracker, RunInfo, Tracker
from distillkit.interfaces.tracker import Status
from distillkit.registry import describe, heading
from distillkit.terminal import Reporter, deferred, print_scores
from distillkit.training import checkpoint
from distillkit.training.assemble import Parts, load, prepare
from distillkit.training.export import export
from distillkit.training.folder import RunFolder
from distillkit.training.loop import Position
from distillkit.training.manifest import complete
from distillkit.training.scoring import BestWeights, RunScores
from distillkit.training.start import begin_with, read_start
from distillkit.training.train import Training

_logger = logging.getLogger(__name__)


def run_phase(
    settings: Settings,
    folder: Path,
    tracker: Tracker,
    resume: bool = False,
    parent: Path | None = None,
    allow: Collection[str] = (),
    ready: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Run one phase.

    Args:
        settings: the checked settings.
        folder: the phase's folder. It must be empty or missing, unless `resume`.
        tracker: records the phase.
        resume: whether to continue from the newest checkpoint, or from the start if there is none. A finished phase is
            not run again.
        parent: with several phases, the folder of the run.
        allow: keys or tables of the config that may have changed since the phase was started.
        ready: see `run`; called where a phase starts from the beginning.

    Returns:
        The rows of scores.json.

    Raises:
        DistillkitError: the user made a mistake, in which case nothing was overwritten, or a file cannot be written.
        RunInterrupted: a signal arrived during the updates. A checkpoint was written.
    """
    reporter = Reporter(Console())
    # Made here, so that what they load is freed after the phase.
    components = replace(settings.components(), tracker=tracker)
    with RunFolder(folder) as run_folder:
        changed: list[str] = []
        if resume:
            # With several phases, the whole config has been compared already, and the model is the result of the phase
            # before, whose path changes if the run's folder is moved.
            ignored = () if parent is None else ("model", "student.start")
            changed = run_folder.open(settings.tables, ignore=ignored, allow=allow)
        else:
            run_folder.check_free()
        info = RunInfo(settings.run.name, folder, make_plan(components), resume, parent)
        if run_folder.finished:
            rows = _close(run_folder, tracker, info, changed, reporter)
        else:
            rows = _make(components, run_folder, info, changed, reporter, ready)
    if distributed.is_main_process():
        print_scores(rows)
    # The teacher of a later phase is a student already.
    for line in gains(rows, components) if parent is None else ():
        reporter.say(line)
    record = f"   record: distillkit ui {folder}" if tracker.has_ui else ""
    adapter = "" if settings.adapter is None else f"   lora: {run_folder.lora}"
    if adapter and components.model.step_input:
        adapter += " (without the step input, which only the pipeline has)"
    reporter.say(f"pipeline: {run_folder.pipeline}{adapter}   samples: {run_folder.samples}{record}")
    return rows


def _make(
    components: Components,
    run_folder: RunFolder,
    info: RunInfo,
    changed: Collection[str],
    reporter: Reporter,
    ready: Callable[[], None],
) -> list[dict[str, Any]]:
    """Run a phase that is not finished, from the start or from a checkpoint."""
    parts = load(components)
    begun = info.resumed and distributed.on_main_process(lambda: bool(complete(run_folder.checkpoints)))
    start = None if begun or components.start is None else read_start(parts, components.start)
    work = prepare(parts)
    # Reads the reference, so that a missing file is reported before anything is written.
    scores = RunScores(parts, run_folder, reporter)
    newest = None
    if info.resumed:
        newest = checkpoint.find(run_folder.checkpoints, parts, reporter.say)
        if newest is None:
            reporter.say(f"{run_folder.path}: there is no checkpoint yet: starting from the beginning")
    else:
        ready()
        if (note := unreached(components)) is not None:
            reporter.say(note)
        run_folder.create(components.tables)
    with recorded(components.tracker, info, run_folder.discard if not info.resumed else lambda: None):
        if components.evaluation.teacher and components.teacher is not None and not components.model.spec.untrained:
            scores.teacher(_known(run_folder, "teacher") if not changed else [])
        if work:
            _do(work, parts, reporter)
        # The scores and the work before were the teacher's.
        if start is not None:
            begin_with(parts, start)
            start = None  # which frees it
        position = Position() if newest is None else checkpoint.restore(newest, parts)
        if changed:
            # Only now is it known that the checkpoint fits the changed config.
            run_folder.write_config(components.tables)
        _train_and_export(parts, position, run_folder, reporter, scores, changed)
    return scores.rows


def _train_and_export(
    parts: Parts,
    position: Position,
    run_folder: RunFolder,
    reporter: Reporter,
    scores: RunScores,
    changed: Collection[str],
) -> None:
    """Train, score the student, and export it."""
    before = position.update
    score = best_score(parts.components)
    best = None if score is None else BestWeights(run_folder.best, parts, score)
    Training(parts, position, run_folder, reporter, scores, best).run()
    if best is not None and (restored := best.restore()) is not None:
        reporter.say(
            f"best: {restored.score} = {restored.value:.4g} after update {restored.update} of {position.update}"
        )
    # If the run was stopped after its last update, scores.json may have scores of these weights already.
    scores.student(_known(run_folder, "student") if before == position.update and not changed else [])
    export(parts, run_folder.pipeline, scores.rows)


def _known(run_folder: RunFolder, model: str) -> list[dict[str, Any]]:
    return [row for row in run_folder.read_scores() if row["model"] == model]


def _close(
    run_folder: RunFolder, tracker: Tracker, info: RunInfo, changed: Collection[str], reporter: Reporter
) -> list[dict[str, Any]]:
    """Let the tracker record a finished phase, which it may not have recorded completely."""
    again = f"; delete {run_folder.pipeline} to continue with the changes in {', '.join(changed)}" if changed else ""
    reporter.say(f"{run_folder.path}: this run is finished{again}")
    with recorded(tracker, info, lambda: None):
        return run_folder.read_scores()


def _do(work: Sequence[Callable[[], None]], parts: Parts, reporter: Reporter) -> None:
    """Do the source's work before the first update."""
    source, engine, counted = parts.components.source, parts.components.engine, parts.student.evaluations
    before = counted.count
    # Before the first update, the average is the network as it was loaded.
    with reporter.task(source.name, len(work)), torch.no_grad(), engine.averaged(), engine.autocast():
        for part in work:
            part()
            reporter.advance(1)
    reporter.say(f"{source.name}: {counted.count - before} evaluations before the first update")


@contextmanager
def recorded(tracker: Tracker, info: RunInfo, undo: Callable[[], None]) -> Iterator[Tracker]:
    """Start the tracker, and on exit finish it with the status of the run.

    Args:
        tracker: the tracker.
        info: the run.
        undo: called if the tracker cannot start.

    Yields:
        The tracker.
    """
    # A signal is deferred until the tracker has started, so that it can be finished as killed.
    with deferred() as stop:
        try:
            distributed.on_main_process(lambda: tracker.start(info))
        except BaseException:
            undo()
            raise
    try:
        if stop.asked:
            raise KeyboardInterrupt if stop.number == signal.SIGINT else Terminated(stop.number)
        yield tracker
    except (KeyboardInterrupt, RunInterrupted):
        tracker.finish("killed")
        raise
    except BaseException:
        tracker.finish("failed")
        raise
    tracker.finish("finished")


def own_tracker(settings: Settings) -> Tracker:
    """The config's tracker in the main process, and a `NoTracker` in the others."""
    return (
        _unfailing(settings.components().tracker) if distributed.is_main_process() else NoTracker(NoTracker.Options())
    )


def _unfailing(tracker: Tracker) -> Tracker:
    """Log the first exception that the tracker's `sync` or `finish` raises, so that no run fails because of it."""
    warned = False

    def guarded(name: str, method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Status) -> None:
            nonlocal warned
            try:
                method(*arguments)
            except (Exception, SystemExit) as error:
                if not warned:
                    _logger.warning(
                        "%s: %s() raised %s; the run goes on without what the tracker has not recorded",
                        heading(tracker),
                        name,
                        describe(error),
                    )
                warned = True

        return call

    for name in ("sync", "finish"):
        setattr(tracker, name, guarded(name, getattr(tracker, name)))
    return tracker
