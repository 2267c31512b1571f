"""Schedules: how the number of steps N_i decreases, and how the updates are divided among the stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp
from typing import Self

from pydantic import Field, model_validator

from distillkit.component import Component
from distillkit.interfaces import Schedule, Stage


class Constant(Schedule):
    """One stage of `steps` steps (section 4.1.1, "Naive DSD")."""

    name = "constant"

    class Options(Schedule.Options):
        """
        Attributes:
            steps: N.
        """

        steps: int = Field(64, ge=1)

    options: Options

    def ending_at(self, steps: int) -> dict[str, int]:
        """`steps` is N."""
        return {"steps": steps}

    def shares(self) -> list[tuple[int, float]]:
        """One stage with all updates."""
        return [(self.options.steps, 1.0)]


class FallingOptions(Component.Options):
    """
    Attributes:
        start: N of the first stage.
        stop: the smallest N. The student of a stage of N steps samples in N / stride steps.
    """

    start: int = Field(64, ge=2)
    stop: int = Field(2, ge=2)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.stop > self.start:
            raise ValueError(f"stop = {self.stop} must not be above start = {self.start}")
        return self


class Halving(Schedule):
    """Stages of N, N/2, N/4, … steps with equal shares of the updates (section 4.1.1, "Iterative DSD").

    The formula U_i = P/(|N|·N_i) in the paper counts samples; its text asks for equal parameter updates per stage.
    """

    name = "halving"

    class Options(FallingOptions):
        """
        Attributes:
            cycles: how often N decreases from `start` to `stop`. The length of the jump is not an input of the network,
                so it forgets what it learned at more steps unless N returns to them.
        """

        cycles: int = Field(1, ge=1)

    options: Options

    def ending_at(self, steps: int) -> dict[str, int]:
        """`stop`, and a `start` from which halving reaches it exactly."""
        start = 4 * steps
        while start < self.options.start:
            start *= 2
        return {"start": start, "stop": steps}

    def shares(self) -> list[tuple[int, float]]:
        """Equal shares. The last stage is the last one with at least `stop` steps."""
        stages, steps = [], self.options.start
        while steps >= self.options.stop:
            stages.append((steps, 1.0))
            steps //= 2
        return stages * self.options.cycles


class Linear(Schedule):
    """Stages of N, N − 2, N − 4, … steps with equal shares of the updates (section 4.1.1, "Gradual DSD")."""

    name = "linear"

    class Options(FallingOptions):
        """
        Attributes:
            decrement: how much N decreases from stage to stage.
        """

        decrement: int = Field(2, ge=1)

    options: Options

    def ending_at(self, steps: int) -> dict[str, int]:
        """`stop`, and a `start` from which N reaches it exactly."""
        by = self.options.decrement
        falls = -(-(max(self.options.start, 4 * steps) - steps) // by)
        return {"start": steps + falls * by, "stop": steps}

    def shares(self) -> list[tuple[int, float]]:
        """Equal shares."""
        options = self.options
        return [(steps, 1.0) for steps in range(options.start, options.stop - 1, -options.decrement)]


class Exponential(Linear):
    """Stages as `linear`, with shares proportional to exp(τ/S_i), S_i the number of steps that the stage leads to.

    S_i = N_i − decrement, and at least 1 (appendix J). Equation (2) in the paper is not normalised, and read literally
    gives one stage 86 % of the updates; its text asks for more updates at fewer steps.
    """

    name = "exponential"

    class Options(Linear.Options):
        """
        Attributes:
            tau: τ, how steeply the shares increase.
        """

        tau: float = Field(1.0, ge=0, le=100)

    options: Options

    def shares(self) -> list[tuple[int, float]]:
        """Larger shares for fewer steps."""
        return [
            (steps, exp(self.options.tau / max(steps - self.options.decrement, 1))) for steps, _ in super().shares()
        ]


class Convergence(Halving):
    """Stages as `halving`, each of which ends early when its score has stopped improving (section 4.1.1, footnote 5).

    The loss does not show convergence, because a student that teaches itself agrees with itself more and more. The run
    therefore takes scores (`evaluation.every`). This is also Salimans & Ho's "while not converged" (Algorithm 1).
    """

    name = "convergence"

    class Options(Halving.Options):
        """
        Attributes:
            metric: the score to watch: "fd-fashion/steps-4", or "steps-4" for the first metric at 4 steps. Default: the
                first metric at the sampling steps of the stage's student.
            patience: a stage ends when this many evaluations in a row were no better than the best before them.
            minimum: the least number of updates of a stage.
            maximum: the largest number of updates of a stage. Default, and limit: an equal share of `run.updates`.
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
        """Equal shares, limited to the maximum: the updates if no stage converges."""
        stages = super().plan(updates, trajectory)
        most = self.options.maximum
        return stages if most is None else [replace(stage, updates=min(stage.updates, most)) for stage in stages]

    def watches(self, steps: int) -> str:
        """The option `metric`, or the first metric at the student's sampling steps."""
        return self.options.metric or f"steps-{steps}"

    def is_over(self, stage: Stage, done: int, scores: Sequence[float]) -> bool:
        """Whether the last `patience` scores are all no better than the best before them."""
        patience = self.options.patience
        if done < self.options.minimum or len(scores) <= patience:
            return False
        return min(scores[-patience:]) >= min(scores[:-patience])
