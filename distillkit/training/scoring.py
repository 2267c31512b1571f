"""Scores and sample sheets of a run: the teacher's before the first update, the student's after the last."""

from __future__ import annotations

from typing import Any

import torch

from distillkit import distributed
from distillkit.config import score_name
from distillkit.errors import RunInterrupted
from distillkit.evaluation import Evaluator, Which, sheet, write_png
from distillkit.training.assemble import Parts
from distillkit.training.folder import RunFolder
from distillkit.training.interrupt import StopRequest
from distillkit.training.progress import Reporter


class RunScores:
    """Collects the rows of scores.json and the rows of the sample sheets.

    The teacher is the network as it is before the first update, so that no second one is kept for the end.

    Args:
        parts: prepared.
        place: the run's folder.
        reporter: shows how far it is.
    """

    def __init__(self, parts: Parts, place: RunFolder, reporter: Reporter) -> None:
        self._parts = parts
        self._settings = settings = parts.settings
        self._place = place
        self._reporter = reporter
        self._evaluator = Evaluator(
            settings, settings.model, settings.engine.device, settings.engine.autocast, self._advance
        )
        self._counting = False
        self._stop = StopRequest()
        self._teacher: dict[int, torch.Tensor] = {}
        self.rows: list[dict[str, Any]] = []

    @property
    def full_steps(self) -> int:
        """The number of steps at which the teacher is at its best, of those that the config names."""
        evaluation = self._settings.evaluation
        return max([*evaluation.steps, *evaluation.teacher_steps, *(part.stage.steps for part in self._parts.plan)])

    def teacher(self, known: list[dict[str, Any]]) -> None:
        """Score the network as the teacher, and keep its pictures.

        Args:
            known: the teacher's rows from before, if the run is resumed.
        """
        evaluation = self._settings.evaluation
        # Nothing was averaged yet: this is the network as it was loaded, whole.
        with self._settings.engine.averaged():
            for steps in sorted({*evaluation.steps, self.full_steps}):
                self._teacher[steps] = self._evaluator.pictures.first(self._parts.student, steps, which="teacher")
            self._score("teacher", sorted({*evaluation.steps, *evaluation.teacher_steps}), known)

    def student(self, known: list[dict[str, Any]]) -> None:
        """Score the trained network and draw the sheets.

        Args:
            known: rows of these weights from before, if the run was stopped here.
        """
        settings = self._settings
        with settings.engine.averaged():
            self._score("student", settings.evaluation.steps, known)
            for steps in settings.evaluation.steps:
                image = self._sheet(steps)
                if distributed.is_main_process():
                    write_png(self._place.samples / f"steps-{steps:03d}.png", image)
                settings.tracker.log_image("samples", image, steps)

    def during(self, update: int, stop: StopRequest) -> dict[str, float] | None:
        """Score the student in the middle of the run: "fd-fashion/steps-4" -> value. None if the user stops it."""
        settings = self._settings
        found: dict[str, float] = {}
        self._stop = stop
        try:
            with settings.engine.averaged():
                for steps in settings.evaluation.steps:
                    scores = self._evaluator.score(self._parts.student, steps, settings.evaluation.every_samples)
                    found |= {score_name(label, steps): value for label, value in scores.items()}
                    settings.tracker.log_image(f"during/steps-{steps}", self._sheet(steps), update)
        except RunInterrupted:  # after the batch in which the user asked to stop
            return None
        settings.tracker.log_metrics({f"during/{key}": value for key, value in found.items()}, update)
        return found

    def _advance(self, pictures: int) -> None:
        if distributed.any_rank(self._stop.asked):
            raise RunInterrupted
        # In the middle of the run the bar counts updates.
        if self._counting:
            self._reporter.advance(pictures)

    def _score(self, which: Which, steps: tuple[int, ...] | list[int], known: list[dict[str, Any]]) -> None:
        samples = self._settings.evaluation.samples
        if not self._settings.metrics:
            self._place.write_scores(self.rows)
            return
        with self._reporter.task(f"{which} samples", samples * len(steps)):
            for number in steps:
                self._reporter.detail = f"{number} steps"
                self._counting = True
                if not (rows := [row for row in known if row["steps"] == number]):
                    scores = self._evaluator.score(self._parts.student, number, samples, which)
                    rows = self._evaluator.rows(which, number, samples, scores)
                self._counting = False
                self.rows += rows
                # At once: what is scored need not be scored again if the run is stopped here.
                self._place.write_scores(self.rows)

    def _sheet(self, steps: int) -> torch.Tensor:
        """Rows from the same noise: the teacher at its best, the teacher at `steps`, the student at `steps`."""
        rows = {f"student, {steps}": self._evaluator.pictures.first(self._parts.student, steps)}
        if self._teacher:
            full = self.full_steps
            rows = {f"teacher, {full}": self._teacher[full], f"teacher, {steps}": self._teacher[steps]} | rows
        return sheet(list(rows.values()), list(rows))
