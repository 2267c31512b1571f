"""One run from its settings to its folder: score the teacher, train, score the student, export, track."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from distillkit.config import Settings, make_plan
from distillkit.evaluation import tables
from distillkit.interfaces import RunInfo
from distillkit.training import checkpoint
from distillkit.training.assemble import Parts, load, prepare
from distillkit.training.export import export
from distillkit.training.folder import RunFolder
from distillkit.training.loop import Position
from distillkit.training.record import own_tracker, recorded
from distillkit.training.scoring import BestWeights, RunScores
from distillkit.training.terminal import Reporter
from distillkit.training.train import Training


def run(
    settings: Settings, folder: Path, resume: bool = False, parent: Path | None = None, allow: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Carry out a run.

    Args:
        settings: the checked config.
        folder: the run's folder; must not hold anything yet, unless `resume`.
        resume: go on from the folder's newest checkpoint, or from the start if there is none yet. A run that is
            finished is only said to be so.
        parent: the folder of the chain that this is a phase of.
        allow: keys of the config, or tables, that may have changed since the run began.

    Returns:
        the rows of scores.json.

    Raises:
        DistillkitError: a fault in what the user gave, found before anything was overwritten; or something cannot be
            written.
        RunInterrupted: Ctrl-C or SIGTERM during the updates; a checkpoint was written.
    """
    reporter = Reporter(Console())
    settings = replace(settings, tracker=own_tracker(settings.tracker))
    with RunFolder(folder) as place:
        changed: list[str] = []
        if resume:
            # A phase's model is the result of the one before, wherever the chain's folder lies by now; the chain has
            # compared.
            changed = place.open(settings.tables, ignore=() if parent is None else ("model",), allow=allow)
        else:
            place.check_free()
        info = _info(settings, folder, resume, parent)
        if place.finished:
            rows = _close(settings, place, info, changed, reporter)
        else:
            rows = _make(settings, place, info, changed, reporter)
    for table in tables(rows):
        reporter.console.print(table)
    record = f"   record: distillkit ui {folder}" if settings.tracker.has_ui else ""
    adapter = "" if settings.student is None else f"   lora: {place.lora}"
    reporter.say(f"pipeline: {place.pipeline}{adapter}   samples: {place.samples}{record}")
    return rows


def _info(settings: Settings, folder: Path, resumed: bool, parent: Path | None) -> RunInfo:
    plan = [(stage.steps, stage.updates, stage.updates * stage.evaluations) for stage in make_plan(settings)]
    return RunInfo(settings.run.name, folder, plan, resumed, parent)


def _make(
    settings: Settings, place: RunFolder, info: RunInfo, changed: Collection[str], reporter: Reporter
) -> list[dict[str, Any]]:
    """A run that is not finished yet, from its beginning or from where it stood."""
    parts = load(settings)
    work = prepare(parts)
    # Reads the reference, so that all that may be missing is missed before anything is written.
    scores = RunScores(parts, place, reporter)
    newest = None
    if info.resumed:
        newest = checkpoint.find(place.checkpoints, parts, reporter.say)
        if newest is None:
            reporter.say(f"{place.path}: there is no checkpoint yet: beginning anew")
    else:
        place.create(settings.tables)
    with recorded(settings.tracker, info, place.discard if not info.resumed else lambda: None):
        if settings.evaluation.teacher and settings.teacher is not None and not settings.model.spec.untrained:
            scores.teacher(_known(place, "teacher") if not changed else [])
        if work:
            _do(work, parts, reporter)
        position = Position() if newest is None else checkpoint.restore(newest, parts)
        if changed:
            # It fits.
            place.write_config(settings.tables)
        _train_and_leave(parts, position, place, reporter, scores, changed)
    return scores.rows


def _train_and_leave(
    parts: Parts,
    position: Position,
    place: RunFolder,
    reporter: Reporter,
    scores: RunScores,
    changed: Collection[str],
) -> None:
    """The updates, the student's scores and the pipeline."""
    before = position.update
    best = None if parts.settings.evaluation.best is None else BestWeights(place.best, parts)
    Training(parts, position, place, reporter, scores, best).run()
    if best is not None and (found := best.restore()) is not None:
        reporter.say(f"best: {found.score} = {found.value:.4g} after update {found.update} of {position.update}")
    # Scores of these weights, if the run was stopped behind its last update.
    scores.student(_known(place, "student") if before == position.update and not changed else [])
    export(parts, place.pipeline, scores.rows)


def _known(place: RunFolder, model: str) -> list[dict[str, Any]]:
    return [row for row in place.read_scores() if row["model"] == model]


def _close(
    settings: Settings, place: RunFolder, info: RunInfo, changed: Collection[str], reporter: Reporter
) -> list[dict[str, Any]]:
    """A run that is finished: its tracker may not know it."""
    again = f"; delete {place.pipeline} to go on with what has changed: {', '.join(changed)}" if changed else ""
    reporter.say(f"{place.path}: this run is finished{again}")
    with recorded(settings.tracker, info, lambda: None):
        return place.read_scores()


def _do(work: Sequence[Callable[[], None]], parts: Parts, reporter: Reporter) -> None:
    """What the source has to do, with the network as it is when the run begins."""
    source, engine, counted = parts.settings.source, parts.settings.engine, parts.student.evaluations
    before = counted.count
    # Nothing was averaged yet: this is the network as it was loaded, whole.
    with reporter.task(source.name, len(work)), torch.no_grad(), engine.averaged(), engine.autocast():
        for part in work:
            part()
            reporter.advance(1)
    reporter.say(f"{source.name}: {counted.count - before} evaluations before the first update")
