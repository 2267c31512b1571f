"""The updates of a run, and what happens beside them: the journal, scores, checkpoints, going back, stopping."""

from __future__ import annotations

import time
from dataclasses import asdict
from statistics import fmean
from typing import Any

from distillkit import distributed
from distillkit.errors import RunInterrupted
from distillkit.training import checkpoint
from distillkit.training.assemble import Parts
from distillkit.training.best import Best
from distillkit.training.curves import Curves
from distillkit.training.divergence import ROLLBACKS, Diverged, Watch
from distillkit.training.folder import RunFolder
from distillkit.training.interrupt import StopRequest, deferred
from distillkit.training.journal import Journal
from distillkit.training.loop import Hooks, Position, train
from distillkit.training.manifest import complete
from distillkit.training.progress import Reporter
from distillkit.training.scoring import RunScores


class Updates:
    """Makes a run's updates.

    Args:
        parts: prepared, in the state of `position`.
        position: where the run stands; changed in place.
        place: the run's folder.
        reporter: told how it goes.
        scores: asked in between.
        best: keeps the best weights, if the config asks for that.
    """

    def __init__(
        self,
        parts: Parts,
        position: Position,
        place: RunFolder,
        reporter: Reporter,
        scores: RunScores,
        best: Best | None,
    ) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._position = position
        self._place = place
        self._reporter = reporter
        self._scores = scores
        self._best = best
        self._stop = StopRequest()
        self._saved: dict[str, Any] | None = None
        self._saved_at = time.monotonic()

    def make(self) -> None:
        """All that are left, and a checkpoint behind the last one.

        Raises:
            Diverged: the run has diverged, and does not go back.
            RunInterrupted: it was stopped; there is a checkpoint.
            DistillkitError: something cannot be written.
        """
        position, last = self._position, self._parts.updates
        goes_back = self._settings.run.on_divergence == "rollback"
        self._journal = self._open()
        with deferred(self._tell) as self._stop:
            if goes_back and not complete(self._place.checkpoints):
                self._save(position)
            while not distributed.any_rank(self._stop.asked):
                try:
                    with self._reporter.task("updates", last, position.update):
                        train(self._parts, position, self._journal, self._reporter, self._hooks())
                    break
                except Diverged as error:
                    if not goes_back or position.rollbacks == ROLLBACKS:
                        raise Diverged(f"{error}; {self._left()}") from None
                    self._go_back(error)
            self._save(position)
        if distributed.any_rank(self._stop.asked):
            raise RunInterrupted(f"after update {position.update} of {last}; go on with --resume", self._stop.number)
        if self._best is not None and position.evaluated < position.update:
            self._evaluate(position.update)

    def _open(self) -> Journal:
        """The files that have a line for each update or evaluation, cut behind the position."""
        if self._best is not None:
            self._best.forget_after(self._position.update)
        self._curves = Curves(self._place.curves, self._position.evaluated)
        return Journal(self._place.journal, Watch(self._settings.run), self._position.update)

    def _hooks(self) -> Hooks:
        return Hooks(self._log, self._is_due, self._save, self._evaluate, self._stop)

    def _log(self, lines: list[dict[str, Any]]) -> None:
        if not lines:
            return
        newest = lines[-1]
        made = [line for line in lines if not line.get("skipped")]
        if left_out := len(lines) - len(made):
            self._reporter.say(f"{left_out} of the updates until {newest['update']} left out: they were not finite")
        means = {key: fmean(line[key] for line in made) for key in ("loss", "grad_norm") if made}
        loss = f"{newest['loss']:.4g}" if newest["loss"] is not None else "not finite"
        self._reporter.detail = (
            f"stage {newest['stage'] + 1}/{len(self._parts.plan)}  N {newest['steps']}  loss {loss}  "
            f"lr {newest['learning_rate']:.2g}"
        )
        here = {key: float(newest[key]) for key in ("learning_rate", "steps", "seconds")}
        self._settings.tracker.log_metrics(means | here, newest["update"])

    def _is_due(self, update: int) -> bool:
        run = self._settings.run
        if run.checkpoint_every and update % run.checkpoint_every == 0:
            return True
        if not run.checkpoint_minutes:
            return False
        # Clocks differ, and a checkpoint is everybody's.
        late = time.monotonic() - self._saved_at >= 60 * run.checkpoint_minutes
        return distributed.any_rank(distributed.is_main_process() and late)

    def _save(self, position: Position) -> None:
        # Behind the last update a checkpoint may be due anyway.
        if self._saved == asdict(position):
            return
        self._journal.sync()
        checkpoint.save(self._place.checkpoints, self._parts, position, self._settings.run.keep)
        self._saved, self._saved_at = asdict(position), time.monotonic()

    def _evaluate(self, update: int) -> dict[str, float] | None:
        found = self._scores.during(update, self._stop)
        if found:
            self._curves.add(update, found)
            if self._best is not None:
                self._best.consider(update, found)
        return found

    def _go_back(self, error: Diverged) -> None:
        position, rollbacks = self._position, self._position.rollbacks + 1
        newest = checkpoint.find(self._place.checkpoints, self._parts, self._reporter.say)
        assert newest is not None  # there is one from before the first update
        # In place, for who holds it; and saved, so that a run that is resumed knows of it.
        vars(position).update(vars(checkpoint.restore(newest, self._parts)) | {"rollbacks": rollbacks})
        self._journal = self._open()
        self._save(position)
        self._reporter.say(
            f"{error}; going back to update {position.update}, "
            f"at {0.5**rollbacks:g} of the learning rate (rollback {rollbacks} of {ROLLBACKS})"
        )
        self._settings.tracker.log_metrics({"rollbacks": float(rollbacks)}, position.update)

    def _left(self) -> str:
        there = complete(self._place.checkpoints)
        if not there:
            return "no checkpoint was made before (run.checkpoint_every): begin anew in another folder"
        return (
            f"the newest checkpoint is {there[-1]}: go on from it with --resume, "
            "--set optimizer.learning_rate=… and --allow-change optimizer.learning_rate"
        )

    def _tell(self) -> None:
        self._reporter.say("stopping after this update; Ctrl-C once more stops at once")
