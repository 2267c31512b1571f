"""N is halved when the score has stopped improving (footnote 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

from pydantic import Field, model_validator

from distillkit.interfaces import Stage
from distillkit_schedules.halving import Halving


class Convergence(Halving):
    """Stages as `halving`, each of which ends early when its score has stopped improving (section 4.1.1, footnote 5).

    A loss does not tell: a student that teaches itself agrees with itself ever more. So scores are taken as the run
    goes (`evaluation.every`). Salimans & Ho's "while not converged" (Algorithm 1) is this, too.
    """

    name = "convergence"

    class Options(Halving.Options):
        """
        Attributes:
            metric: the score that is watched: "fd-fashion/steps-4", or "steps-4" for the first metric at 4 steps. Left
                out: the first metric at the steps in which the stage's own student samples.
            patience: a stage is over when so many evaluations in a row were no better than the best before them.
            minimum: updates that a stage gets at least, out of its share.
            maximum: updates that a stage gets at most; left out: an equal share of `run.updates`, which is the bound
                in any case.
        """

        metric: str | None = None
        patience: int = Field(3, ge=1)
        minimum: int = Field(0, ge=0)
        maximum: int | None = Field(None, ge=1)

        @model_validator(mode="after")
        def _leaves_room(self) -> Self:
            if self.maximum is not None and self.minimum > self.maximum:
                raise ValueError(f"minimum = {self.minimum} must not be above maximum = {self.maximum}")
            return self

    options: Options

    def plan(self, updates: int, trajectory: Callable[[int], int]) -> list[Stage]:
        """Equal shares, cut at the maximum: what the stages get if none converges."""
        stages = super().plan(updates, trajectory)
        most = self.options.maximum
        return stages if most is None else [replace(stage, updates=min(stage.updates, most)) for stage in stages]

    def watches(self, steps: int) -> str:
        """The metric of the options, or the first one at the student's own steps."""
        return self.options.metric or f"steps-{steps}"

    def is_over(self, stage: Stage, done: int, scores: Sequence[float]) -> bool:
        """Whether the last `patience` scores are all no better than the best before them."""
        patience = self.options.patience
        if done < self.options.minimum or len(scores) <= patience:
            return False
        return min(scores[-patience:]) >= min(scores[:-patience])
