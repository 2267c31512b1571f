"""Scores and sample sheets of a run, and the weights that scored best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open

from distillkit import distributed
from distillkit.config import score_name, scores_taken
from distillkit.errors import RunInterrupted
from distillkit.evaluation import Evaluator, Which, sheet, write_png
from distillkit.files import replacing
from distillkit.terminal import Reporter, StopRequest
from distillkit.training.assemble import Parts
from distillkit.training.folder import RunFolder


class RunScores:
    """Collects the rows of scores.json and the rows of the sample sheets.

    The teacher is the network as it is before the first update, so that no second one is kept for the end.

    Args:
        parts: prepared.
        run_folder: the run's folder.
        reporter: shows how far it is.
    """

    def __init__(self, parts: Parts, run_folder: RunFolder, reporter: Reporter) -> None:
        self._parts = parts
        self._components = components = parts.components
        self._folder = run_folder
        self._reporter = reporter
        self._evaluator = Evaluator(components, components.model, components.engine.device, components.engine.autocast)
        self._teacher: dict[int, torch.Tensor] = {}
        self.rows: list[dict[str, Any]] = []

    @property
    def full_steps(self) -> int:
        """The number of steps at which the teacher is at its best, of those that the config names."""
        evaluation = self._components.evaluation
        return max([*evaluation.steps, *evaluation.teacher_steps, *(stage.steps for stage in self._parts.plan)])

    def teacher(self, known: list[dict[str, Any]]) -> None:
        """Score the network as the teacher, and keep its pictures.

        Args:
            known: the teacher's rows from before, if the run is resumed.
        """
        evaluation = self._components.evaluation
        # Nothing was averaged yet: this is the network as it was loaded, whole.
        with self._components.engine.averaged():
            for steps in sorted({*evaluation.steps, self.full_steps}):
                self._teacher[steps] = self._evaluator.pictures.first(self._parts.student, steps, which="teacher")
            self._score("teacher", sorted({*evaluation.steps, *evaluation.teacher_steps}), known)

    def student(self, known: list[dict[str, Any]]) -> None:
        """Score the trained network and draw the sheets.

        Args:
            known: rows of these weights from before, if the run was stopped here.
        """
        components = self._components
        with components.engine.averaged():
            self._score("student", components.evaluation.steps, known)
            for steps in components.evaluation.steps:
                self._draw(f"steps-{steps:03d}.png", steps)

    def during(self, update: int, stop: StopRequest) -> dict[str, float] | None:
        """Score the student in the middle of the run: "fd-fashion/steps-4" -> value. None if the user stops it."""
        components = self._components
        found: dict[str, float] = {}

        def check(pictures: int) -> None:
            if distributed.any_rank(stop.asked):
                raise RunInterrupted

        try:
            with components.engine.averaged():
                for steps in components.evaluation.steps:
                    samples = components.evaluation.every_samples
                    scores = self._evaluator.score(self._parts.student, steps, samples, on_batch=check)
                    found |= {score_name(label, steps): value for label, value in scores.items()}
                    self._draw(f"during/update-{update:06d}-steps-{steps:03d}.png", steps)
        except RunInterrupted:  # after the batch in which the user asked to stop
            return None
        return found

    def _score(self, which: Which, steps: tuple[int, ...] | list[int], known: list[dict[str, Any]]) -> None:
        samples = self._components.evaluation.samples
        if not self._components.metrics:
            self._folder.write_scores(self.rows)
            return
        with self._reporter.task(f"{which} samples", samples * len(steps)):
            for number in steps:
                self._reporter.detail = f"{number} steps"
                if not (rows := [row for row in known if row["steps"] == number]):
                    advance = self._reporter.advance
                    scores = self._evaluator.score(self._parts.student, number, samples, which, advance)
                    rows = self._evaluator.rows(which, number, samples, scores)
                self.rows += rows
                # At once: what is scored need not be scored again if the run is stopped here.
                self._folder.write_scores(self.rows)
                self._components.tracker.sync()

    def _draw(self, name: str, steps: int) -> None:
        """Draw a sheet, and write it to samples/."""
        image, path = self._sheet(steps), self._folder.samples / name
        distributed.on_main_process(lambda: write_png(path, image), path)

    def _sheet(self, steps: int) -> torch.Tensor:
        """Rows from the same noise: the teacher at its best, the teacher at `steps`, the student at `steps`."""
        rows = {f"student, {steps}": self._evaluator.pictures.first(self._parts.student, steps)}
        if self._teacher:
            full = self.full_steps
            rows = {f"teacher, {full}": self._teacher[full], f"teacher, {steps}": self._teacher[steps]} | rows
        return sheet(list(rows.values()), list(rows))


@dataclass(frozen=True)
class BestScore:
    """The score of the best weights: the update that they followed, the score's name, its value."""

    update: int
    score: str
    value: float


class BestWeights:
    """Keeps the weights with the best score in best.safetensors: the averaged ones where the run averages.

    Args:
        path: the file; what an earlier part of the run left in it counts.
        parts: ready to run.
        score: one that the run takes.
    """

    def __init__(self, path: Path, parts: Parts, score: str) -> None:
        self._path = path
        self._parts = parts
        self._score = score
        self._sign = -1 if scores_taken(parts.components)[score].higher_is_better else 1

    @property
    def score(self) -> BestScore | None:
        """The best so far, by the score that the config names; a collective."""
        return distributed.on_main_process(self._read)

    def _read(self) -> BestScore | None:
        if not self._path.is_file():
            return None
        with safe_open(self._path, "pt") as file:
            written = file.metadata()
        best = BestScore(int(written["update"]), written["score"], float(written["value"]))
        return best if best.score == self._score else None

    def consider(self, update: int, scores: Mapping[str, float]) -> None:
        """Keep the weights if they have the best score so far; of equals, the first."""
        value = scores[self._score]
        before = self.score
        # Not a number is not better than anything.
        if not self._sign * value < (self._sign * before.value if before else inf):
            return
        metadata = {"update": str(update), "score": self._score, "value": repr(value)}
        with self._parts.components.engine.averaged():
            distributed.on_main_process(lambda: self._write(metadata), self._path)

    def _write(self, metadata: dict[str, str]) -> None:
        weights = {key: weight.cpu().contiguous() for key, weight in self._parts.student.state_dict().items()}
        with replacing(self._path) as temporary:
            safetensors.torch.save_file(weights, temporary, metadata=metadata)

    def forget_after(self, update: int) -> None:
        """Drop the weights if they are of a later update, which the run is about to repeat."""
        if (found := self.score) is not None and found.update > update:
            distributed.on_main_process(self._path.unlink, self._path)

    def restore(self) -> BestScore | None:
        """Load the best weights into the averaged network, at the end of a run: nothing can be trained after it."""
        found = self.score
        if found is not None:
            with self._parts.components.engine.averaged():
                self._parts.student.load_state_dict(safetensors.torch.load_file(self._path))
        return found
