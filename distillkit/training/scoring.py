"""Takes the scores and draws the sample sheets of a run, and keeps the weights with the best score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open

from distillkit import distributed
from distillkit.config import score_name, scores_taken, teacher_scales, teacher_solvers
from distillkit.errors import RunInterrupted
from distillkit.evaluation import Evaluator, Which, sheet, write_png
from distillkit.files import replacing
from distillkit.reading import way
from distillkit.terminal import Reporter, StopRequest
from distillkit.training.assemble import Parts
from distillkit.training.folder import RunFolder


class RunScores:
    """Collects the rows of scores.json and the rows of the sample sheets.

    The teacher is the network before the first update. It is scored then, so that no copy has to be kept.

    Args:
        parts: the prepared parts of the run.
        run_folder: the run's folder.
        reporter: shows the progress.
    """

    def __init__(self, parts: Parts, run_folder: RunFolder, reporter: Reporter) -> None:
        self._parts = parts
        self._components = components = parts.components
        self._folder = run_folder
        self._reporter = reporter
        self._evaluator = Evaluator(components, components.model, components.engine.device, components.engine.autocast)
        self._full: dict[str, torch.Tensor] = {}
        self._teacher: dict[int, dict[str, torch.Tensor]] = {}
        self.rows: list[dict[str, Any]] = []

    @property
    def full_steps(self) -> int:
        """The largest number of steps in the config, at which the teacher is best."""
        evaluation = self._components.evaluation
        return max([*evaluation.steps, *evaluation.teacher_steps, *(stage.steps for stage in self._parts.plan)])

    def teacher(self, known: list[dict[str, Any]]) -> None:
        """Score the network as the teacher, and keep its samples for the sheets.

        Args:
            known: rows of the teacher from before, if the run is resumed. These scores are not taken again.
        """
        evaluation, solvers = self._components.evaluation, teacher_solvers(self._components)
        scales = teacher_scales(evaluation)
        ways = [*product(solvers, scales)]
        # Before the first update, the average is the network as it was loaded.
        with self._components.engine.averaged():
            self._score("teacher", sorted({*evaluation.steps, *evaluation.teacher_steps}), known, ways)
            first = next(iter(self._evaluator.metrics), None)
            rows = [row for row in self.rows if row["best"] and row["metric"] == first]
            best = {row["steps"]: (row["solver"], row["guidance"]) for row in rows}
            full = self.full_steps
            self._full = self._teacher_rows(full, [best.get(full, ways[0])])
            for steps in evaluation.steps:
                self._teacher[steps] = self._teacher_rows(steps, [best[steps]] if best else ways[:: len(scales)])

    def _teacher_rows(self, steps: int, ways: Sequence[tuple[str, float]]) -> dict[str, torch.Tensor]:
        """Rows of a sheet, by label, for solvers and guidance scales."""
        draw = partial(self._evaluator.pictures.first, self._parts.student, steps, which="teacher")
        return {
            f"teacher, {steps}, {way({'solver': solver, 'guidance': scale})}": draw(solver=solver, guidance=scale)
            for solver, scale in ways
        }

    def student(self, known: list[dict[str, Any]]) -> None:
        """Score the trained network and draw the sheets.

        Args:
            known: rows of these weights from before, if the run was stopped here. These scores are not taken again.
        """
        components = self._components
        with components.engine.averaged():
            self._score("student", components.evaluation.steps, known)
            for steps in components.evaluation.steps:
                self._draw(f"steps-{steps:03d}.png", steps)

    def during(self, update: int, stop: StopRequest) -> dict[str, float] | None:
        """Score the student during the run.

        Args:
            update: the update before the evaluation.
            stop: checked after each batch.

        Returns:
            The scores by name, as in "fd-fashion/steps-4"; None if the user stops the run meanwhile.
        """
        components = self._components
        taken: dict[str, float] = {}

        def check(pictures: int) -> None:
            if distributed.any_rank(stop.asked):
                raise RunInterrupted

        try:
            with components.engine.averaged():
                for steps in components.evaluation.steps:
                    samples = components.evaluation.every_samples
                    scores = self._evaluator.score(self._parts.student, steps, samples, on_batch=check)
                    taken |= {score_name(label, steps): value for label, value in scores.items()}
                    self._draw(f"during/update-{update:06d}-steps-{steps:03d}.png", steps)
        except RunInterrupted:  # after the batch in which the user asked to stop
            return None
        return taken

    def _score(
        self,
        which: Which,
        steps: Sequence[int],
        known: list[dict[str, Any]],
        ways: Sequence[tuple[str | None, float | None]] = ((None, None),),
    ) -> None:
        samples = self._components.evaluation.samples
        if not self._components.metrics:
            self._folder.write_scores(self.rows)
            return
        with self._reporter.task(f"{which} samples", samples * len(steps) * len(ways)):
            for number, how in product(steps, ways):
                named = f", {way({'solver': how[0], 'guidance': how[1]})}" if how[0] else ""
                self._reporter.detail = f"{number} steps{named}"
                rows = [
                    row for row in known if row["steps"] == number and (row.get("solver"), row.get("guidance")) == how
                ]
                if not rows:
                    advance = self._reporter.advance
                    scores = self._evaluator.score(self._parts.student, number, samples, which, advance, *how)
                    rows = self._evaluator.rows(which, number, samples, scores, *how)
                self.rows += rows
                if which == "teacher":
                    self._mark_best(number)
                # Written after each score, so that a resumed run does not take it again.
                self._folder.write_scores(self.rows)
                self._components.tracker.sync()

    def _mark_best(self, steps: int) -> None:
        """Say in the teacher's rows which solver and scale are the best at a number of steps, by each metric."""
        for label, metric in self._evaluator.metrics.items():
            rows = [row for row in self.rows if (row["steps"], row["metric"]) == (steps, label)]
            best = (max if metric.higher_is_better else min)(rows, key=lambda row: float(row["value"]))
            for row in rows:
                row["best"] = row is best

    def _draw(self, name: str, steps: int) -> None:
        """Draw a sheet, and write it to samples/."""
        image, path = self._sheet(steps), self._folder.samples / name
        distributed.on_main_process(lambda: write_png(path, image), path)

    def _sheet(self, steps: int) -> torch.Tensor:
        """Samples from the same noise, in rows: the teacher in `full_steps` and in `steps`, the student in `steps`.

        The teacher's solver and guidance are the best at that number of steps; without scores, each solver has a row.
        """
        rows = self._full | self._teacher.get(steps, {})
        rows[f"student, {steps}"] = self._evaluator.pictures.first(self._parts.student, steps)
        return sheet(list(rows.values()), list(rows))


@dataclass(frozen=True)
class BestScore:
    """The score of the best weights.

    Attributes:
        update: the update after which they were evaluated.
        score: the name of the score.
        value: its value.
    """

    update: int
    score: str
    value: float


class BestWeights:
    """Keeps the weights with the best score in best.safetensors; the averaged weights, if the run averages.

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
        found = distributed.on_main_process(self._read)
        return None if found is None else BestScore(**found)

    def _read(self) -> dict[str, Any] | None:
        if not self._path.is_file():
            return None
        with safe_open(self._path, "pt") as file:
            written = file.metadata()
        best = {"update": int(written["update"]), "score": written["score"], "value": float(written["value"])}
        return best if best["score"] == self._score else None

    def consider(self, update: int, scores: Mapping[str, float]) -> None:
        """Keep the weights if their score is better than the best so far. Collective."""
        value = scores[self._score]
        before = self.score
        # NaN is not better than any score.
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
        """Delete the weights if they are from a later update than `update`, which the run is about to repeat."""
        if (best := self.score) is not None and best.update > update:
            distributed.on_main_process(self._path.unlink, self._path)

    def restore(self) -> BestScore | None:
        """Load the best weights into the averaged network. Training cannot continue afterwards. Collective."""
        best = self.score
        if best is not None:
            with self._parts.components.engine.averaged():
                self._parts.student.load_state_dict(safetensors.torch.load_file(self._path))
        return best
