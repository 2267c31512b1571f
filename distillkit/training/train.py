"""Trains: the updates, and what happens between them: the journal, evaluations, checkpoints, rollbacks, stopping."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from distillkit import distributed
from distillkit.errors import DistillkitError, RunInterrupted
from distillkit.terminal import Reporter, StopRequest, deferred
from distillkit.training import checkpoint
from distillkit.training.assemble import Parts
from distillkit.training.folder import RunFolder
from distillkit.training.journal import ROLLBACKS, Curves, Diverged, DivergenceGuard, Journal, Line
from distillkit.training.loop import NoBatch, Position, updates
from distillkit.training.manifest import complete
from distillkit.training.scoring import BestWeights, RunScores


class Training:
    """Makes the updates of a run that are left.

    Args:
        parts: ready to run, in the state of `position`.
        position: how far the run is; changed in place.
        folder: the run's.
        reporter: shows the progress.
        scores: evaluates the student during the run.
        best: keeps the best weights; None where `evaluation.best` is not set.
    """

    def __init__(
        self,
        parts: Parts,
        position: Position,
        folder: RunFolder,
        reporter: Reporter,
        scores: RunScores,
        best: BestWeights | None,
    ) -> None:
        self._parts = parts
        self._components = parts.components
        self._position = position
        self._folder = folder
        self._reporter = reporter
        self._scores = scores
        self._best = best
        self._last = parts.updates
        self._saved: dict[str, Any] | None = None
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Make the updates, and a checkpoint after the last one.

        Raises:
            Diverged: the run has diverged, and does not go back to a checkpoint.
            RunInterrupted: it was stopped; there is a checkpoint.
            DistillkitError: something cannot be written; or the data cannot be read, and there is a checkpoint.
        """
        position, last = self._position, self._last
        rolls_back = self._components.run.on_divergence == "rollback"
        self._open_records()
        with deferred(lambda: self._reporter.say("stopping after this update; Ctrl-C once more stops at once")) as stop:
            if rolls_back and not distributed.on_main_process(lambda: complete(self._folder.checkpoints)):
                self._save()
            while not distributed.any_rank(stop.asked):
                try:
                    with self._reporter.task("updates", last, position.update):
                        self._make_updates(stop)
                    break
                except Diverged as error:
                    if not rolls_back or position.rollbacks == ROLLBACKS:
                        raise Diverged(f"{error}; {self._how_to_go_on()}") from None
                    self._roll_back(error)
                except NoBatch as error:
                    self._log()
                    self._save()
                    raise DistillkitError(
                        f"{error}; there is a checkpoint of update {position.update}: go on with --resume"
                    ) from None
            self._save()
        if distributed.any_rank(stop.asked):
            raise RunInterrupted(f"after update {position.update} of {last}; go on with --resume", stop.number)
        # The last weights compete for the best.
        if self._best is not None and position.evaluated < position.update:
            self._evaluate(stop)

    def _make_updates(self, stop: StopRequest) -> None:
        position, last, every = self._position, self._last, self._components.run.log_every
        # An evaluation that a signal cut short is repeated, so that a schedule that watches its score decides alike.
        if self._evaluation_is_due():
            self._evaluate(stop)
        for line in updates(self._parts, position, self._reporter.say):
            self._lines.append(line)
            evaluate, save = self._evaluation_is_due(), self._checkpoint_is_due()
            # Logging raises if the run has diverged, so that diverged weights are neither evaluated nor saved.
            if evaluate or save or position.update % every == 0 or position.update == last:
                self._log()
            if evaluate:
                self._evaluate(stop)
            if save:
                self._save()
            self._reporter.advance(1)
            # A signal may reach a single rank; all stop after the same update.
            if distributed.any_rank(stop.asked) if distributed.active else stop.asked:
                break
        self._log()

    def _open_records(self) -> None:
        """Open the journal and the curves, and drop what is later than the position."""
        if self._best is not None:
            self._best.forget_after(self._position.update)
        self._curves = Curves(self._folder.curves, self._position.evaluated)
        guard = DivergenceGuard(self._components.run)
        self._journal = Journal(self._folder.journal, guard, self._position.update, self._folder.check_lock)
        self._lines: list[Line] = []

    def _log(self) -> None:
        """Write the journal's new lines, and show where the run is."""
        if not self._lines:
            return
        waiting, self._lines = self._lines, []
        lines = self._journal.write(waiting)
        newest = lines[-1]
        if skipped := sum(line.get("skipped", False) for line in lines):
            self._reporter.say(f"{skipped} of the updates until {newest['update']} left out: they were not finite")
        loss = f"{newest['loss']:.4g}" if newest["loss"] is not None else "not finite"
        self._reporter.detail = (
            f"stage {newest['stage'] + 1}/{len(self._parts.plan)}  N {newest['steps']}  loss {loss}  "
            f"lr {newest['learning_rate']:.2g}"
        )
        self._components.tracker.sync()

    def _evaluation_is_due(self) -> bool:
        position, every = self._position, self._components.evaluation.every
        return bool(every) and position.update % every == 0 and position.evaluated < position.update < self._last

    def _evaluate(self, stop: StopRequest) -> None:
        """Score the student; what a signal cuts short leaves nothing."""
        update = self._position.update
        scores = self._scores.during(update, stop)
        if scores is None:
            return
        if scores:
            self._curves.add(update, scores)
            if self._best is not None:
                self._best.consider(update, scores)
        self._components.tracker.sync()
        self._position.evaluated = update
        self._position.scores.append(scores)

    def _checkpoint_is_due(self) -> bool:
        run = self._components.run
        if run.checkpoint_every and self._position.update % run.checkpoint_every == 0:
            return True
        if not run.checkpoint_minutes:
            return False
        due = time.monotonic() - self._saved_at >= 60 * run.checkpoint_minutes
        # Clocks differ, and all ranks take part in a checkpoint: the main process's counts.
        return distributed.any_rank(distributed.is_main_process() and due) if distributed.active else due

    def _save(self) -> None:
        # After the last update a checkpoint may be due anyway.
        if self._saved == asdict(self._position):
            return
        self._journal.sync()
        checkpoint.save(self._folder.checkpoints, self._parts, self._position, self._components.run.keep)
        self._saved, self._saved_at = asdict(self._position), time.monotonic()

    def _roll_back(self, error: Diverged) -> None:
        """Go back to the newest checkpoint, at half the learning rate."""
        position = self._position
        # There is one, at the latest that from before the first update.
        newest = checkpoint.find(self._folder.checkpoints, self._parts, self._reporter.say)
        if newest is None:
            raise error
        position.roll_back_to(checkpoint.restore(newest, self._parts))
        # So that a resumed run knows of the rollback.
        self._open_records()
        self._save()
        self._reporter.say(
            f"{error}; going back to update {position.update}, "
            f"at {0.5**position.rollbacks:g} of the learning rate (rollback {position.rollbacks} of {ROLLBACKS})"
        )

    def _how_to_go_on(self) -> str:
        checkpoints = complete(self._folder.checkpoints)
        if not checkpoints:
            return "no checkpoint was made before (run.checkpoint_every): begin anew in another folder"
        return (
            f"the newest checkpoint is {checkpoints[-1]}: go on from it with --resume, "
            "--set optimizer.learning_rate=… and --allow-change optimizer.learning_rate"
        )
