"""One run from its settings to its folder: score the teacher, train, score the student, export, track."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.console import Console
from torch import nn

from distillkit import workers
from distillkit.config import Settings
from distillkit.errors import RunInterrupted
from distillkit.evaluation import tables
from distillkit.interfaces import Export, RunInfo
from distillkit.training import checkpoint
from distillkit.training.assemble import Parts, load, prepare
from distillkit.training.best import Best
from distillkit.training.curves import Curves
from distillkit.training.divergence import ROLLBACKS, Diverged, Watch
from distillkit.training.folder import RunFolder
from distillkit.training.interrupt import StopRequest, deferred
from distillkit.training.journal import Journal
from distillkit.training.loop import Hooks, Position, train
from distillkit.training.progress import Reporter
from distillkit.training.recording import own_tracker
from distillkit.training.scoring import RunScores


def run(settings: Settings, folder: Path, resume: bool = False, parent: Path | None = None) -> list[dict[str, Any]]:
    """Carry out a run.

    Args:
        settings: the checked config.
        folder: the run's folder; must not hold anything yet, unless `resume`.
        resume: go on from the folder's newest checkpoint, or from the start if there is none yet.
        parent: the folder of the chain that this is a phase of.

    Returns:
        the rows of scores.json.

    Raises:
        DistillkitError: a fault in what the user gave, found before anything was overwritten.
        RunInterrupted: Ctrl-C during the updates; a checkpoint was written.
    """
    reporter = Reporter(Console())
    settings = replace(settings, tracker=own_tracker(settings.tracker, settings.origin))
    place = RunFolder(folder)
    # A phase's model is the result of the one before, wherever the chain's folder lies by now; the chain has compared.
    known = place.open(settings.tables, ignore=() if parent is None else ("model",)) if resume else None
    if not resume:
        place.check_free()
    parts = load(settings)
    work = prepare(parts)
    # Reads the reference, so that all that may be missing is missed before anything is written.
    scores = RunScores(parts, place, reporter)
    # All have seen that it was free.
    workers.barrier()
    if not resume and workers.is_first():
        place.create(settings.tables)
    # A record that is opened halfway could not be closed as killed.
    with deferred() as stop:
        try:
            settings.tracker.start(_info(parts, folder, resume, parent))
        except BaseException:
            if not resume and workers.is_first():
                place.discard()
            raise
    try:
        if stop.asked:
            raise KeyboardInterrupt
        rows = _carry_out(parts, place, reporter, scores, known, work)
    except (KeyboardInterrupt, RunInterrupted):
        settings.tracker.finish("killed")
        raise
    except BaseException:
        settings.tracker.finish("failed")
        raise
    settings.tracker.finish("finished")
    for table in tables(rows):
        reporter.console.print(table)
    record = f"   record: distillkit ui {folder}" if settings.tracker.has_ui else ""
    adapter = "" if settings.student is None else f"   lora: {place.lora}"
    reporter.say(f"pipeline: {place.pipeline}{adapter}   samples: {place.samples}{record}")
    return rows


def _info(parts: Parts, folder: Path, resumed: bool, parent: Path | None) -> RunInfo:
    plan = [(planned.stage.steps, planned.stage.updates, planned.evaluations) for planned in parts.plan]
    return RunInfo(parts.settings.run.name, folder, parts.settings.tables, plan, resumed, parent)


def _carry_out(
    parts: Parts,
    place: RunFolder,
    reporter: Reporter,
    scores: RunScores,
    known: list[dict[str, Any]] | None,
    work: Sequence[Callable[[], None]],
) -> list[dict[str, Any]]:
    """Everything between the tracker's start and finish.

    Args:
        known: the teacher's rows of the run that is resumed.
        work: the source's, before the updates.
    """
    settings = parts.settings
    if settings.evaluation.teacher and settings.teacher is not None and not settings.model.untrained:
        scores.teacher(known or [])
    if work:
        _do(work, parts, reporter)
    position = Position() if known is None else checkpoint.restore(place.checkpoints, parts)
    best = None if settings.evaluation.best is None else Best(place.best, parts)
    _train(parts, position, place, reporter, scores, best)
    if best is not None and (found := best.restore()) is not None:
        reporter.say(f"best: {found.score} = {found.value:.4g} after update {found.update} of {position.update}")
        settings.tracker.log_metrics({f"best/{found.score}": found.value}, found.update)
    scores.student()
    export(parts, place.pipeline, scores.rows)
    settings.tracker.log_scores(scores.rows)
    for file in (place.config, place.scores, place.journal):
        settings.tracker.log_file(file)
    return scores.rows


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


def _train(
    parts: Parts, position: Position, place: RunFolder, reporter: Reporter, scores: RunScores, best: Best | None
) -> None:
    settings = parts.settings

    def log(lines: list[dict[str, Any]]) -> None:
        if not lines:
            return
        newest = lines[-1]
        reporter.detail = (
            f"stage {newest['stage'] + 1}/{len(parts.plan)}  N {newest['steps']}  loss {newest['loss']:.4g}  "
            f"lr {newest['learning_rate']:.2g}"
        )
        means = {key: fmean(line[key] for line in lines) for key in ("loss", "grad_norm")}
        here = {key: float(newest[key]) for key in ("learning_rate", "steps", "seconds")}
        settings.tracker.log_metrics(means | here, newest["update"])

    def save(position: Position) -> None:
        checkpoint.save(place.checkpoints, parts, position, settings.run.keep)

    def asked() -> None:
        reporter.say("stopping after this update; Ctrl-C once more stops at once")

    def evaluate(update: int) -> dict[str, float] | None:
        found = scores.during(update, stop)
        if found:
            curves.add(update, found)
            if best is not None:
                best.consider(update, found)
        return found

    goes_back = settings.run.on_divergence == "rollback"
    if goes_back and not checkpoint.complete(place.checkpoints):
        save(position)
    stop = StopRequest()
    while True:
        journal = Journal(place.journal, Watch(settings.run), position.update)
        curves = Curves(place.curves, position.evaluated)
        # Asked before the run went back.
        if stop.asked:
            break
        try:
            with reporter.task("updates", parts.updates, position.update), deferred(asked) as stop:
                hooks = Hooks(log, save, evaluate, stop)
                train(parts, position, journal, reporter, hooks)
            break
        except Diverged as error:
            if not goes_back or position.rollbacks == ROLLBACKS:
                raise
            rollbacks = position.rollbacks + 1
            # In place, for who holds it; and saved, so that a run that is resumed knows of it.
            vars(position).update(vars(checkpoint.restore(place.checkpoints, parts)) | {"rollbacks": rollbacks})
            save(position)
            if best is not None:
                best.forget_after(position.update)
            reporter.say(
                f"{error}; going back to update {position.update}, "
                f"at {0.5**rollbacks:g} of the learning rate (rollback {rollbacks} of {ROLLBACKS})"
            )
            settings.tracker.log_metrics({"rollbacks": float(rollbacks)}, position.update)
    save(position)
    if stop.asked:
        raise RunInterrupted(f"after update {position.update} of {parts.updates}; go on with --resume")
    if best is not None and position.evaluated < position.update:
        evaluate(position.update)


def export(parts: Parts, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the trained network, with the averaged weights, as a pipeline.

    Args:
        parts: prepared.
        folder: the pipeline's. An adapter is written alone as well, beside it.
        rows: of scores.json, for the model card.
    """
    settings = parts.settings
    with settings.engine.averaged():
        network = copy.deepcopy(parts.student.network).cpu() if workers.is_first() else None
    if network is not None:
        _export(network, parts, folder, rows)
    # What comes next may read it.
    workers.barrier()


def _export(network: nn.Module, parts: Parts, folder: Path, rows: list[dict[str, Any]]) -> None:
    settings, evaluation = parts.settings, parts.settings.evaluation
    about = Export(
        steps=evaluation.export_steps or _taught_steps(parts),
        served=evaluation.steps,
        guidance=evaluation.guidance,
        method=settings.run.method,
        teacher=settings.model.label,
        scores=rows,
        settings=settings.tables,
        sampler=evaluation.sampler,
    )
    if settings.student is not None:
        settings.model.export_adapter(network, folder.with_name("lora"))
    settings.model.export(network, folder, about)


def _taught_steps(parts: Parts) -> int:
    """The smallest of the evaluated numbers of steps that a stage taught; the largest where none did."""
    taught = {planned.stage.steps // planned.stride for planned in parts.plan if planned.stage.updates}
    steps = parts.settings.evaluation.steps
    return min(taught.intersection(steps), default=max(steps))
