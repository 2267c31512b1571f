"""How many steps N_i, for how many updates."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distillkit.component import Component


@dataclass(frozen=True)
class Stage:
    """A part of a run: the sampler's fine grid, and how long the student is taught on it.

    Attributes:
        steps: N_i, the number of fine steps of the grid, `path.grid(steps)`.
        updates: parameter updates (not samples).
        stride: fine steps per jump; the target's.
        evaluations: network evaluations per update, as the journal counts them: all of its batches, the student's and
            the target's. Guidance doubles a batch, not the count.
    """

    steps: int
    updates: int
    stride: int = 1
    evaluations: int = 1

    @property
    def jumps(self) -> int:
        """Jumps from noise to data: the sampling steps for which the student is taught."""
        return self.steps // self.stride

    @property
    def all_evaluations(self) -> int:
        """Network evaluations of all its updates."""
        return self.updates * self.evaluations


class Schedule(Component):
    """The stages of a run. Must not import torch: `distillkit plan` doesn't."""

    @abstractmethod
    def shares(self) -> Sequence[tuple[int, float]]:
        """The stages in order: (N_i, the stage's share of the updates). Shares are relative; any sum will do."""

    def plan(self, updates: int, trajectory: Callable[[int], int]) -> list[Stage]:
        """Optional. Divide `updates` parameter updates among the stages, by default exactly.

        Args:
            updates: P, all parameter updates of the run.
            trajectory: N_i -> updates that one whole trajectory of N_i steps makes (1 where trajectories do not
                matter). Stages get whole trajectories, rounded so that the error never adds up; what is left over
                goes to the last stage, where a trajectory is shortest. With too few updates for every stage to get
                one, parts of trajectories are given out.

        Returns:
            one stage per share, with its N_i. Their updates add up to `updates`, or to fewer, at least 1, where the
            schedule limits its stages.
        """
        stages = self._apportion(updates, trajectory)
        if any(stage.updates == 0 for stage in stages):
            stages = self._apportion(updates, lambda _: 1)
        return stages

    def _apportion(self, updates: int, unit: Callable[[int], int]) -> list[Stage]:
        shares = self.shares()
        total = sum(share for _, share in shares)
        stages: list[Stage] = []
        given, due = 0, 0.0
        for steps, share in shares[:-1]:
            due += updates * share / total
            whole = unit(steps)
            part = min(max(round((due - given) / whole), 0) * whole, updates - given)
            stages.append(Stage(steps, part))
            given += part
        return [*stages, Stage(shares[-1][0], updates - given)]

    def ending_at(self, steps: int) -> Mapping[str, Any] | None:
        """Optional. Options with which the last stage has N = `steps`, the other options being as they are.

        `distillkit distill` asks for them. A schedule that falls begins at four times as many at least, so that the
        student also learns what takes twice and four times as many steps.

        Returns:
            the options to change; None if it has none for that.
        """
        return None

    def watches(self, steps: int) -> str | None:
        """Optional. Which score ends a stage whose student samples in `steps` steps. By default none.

        Returns:
            "fd-fashion/steps-4", or "steps-4" for the first metric at 4 steps; None for none. The config's checks see
            to it that the run takes that score as it goes.
        """
        return None

    def is_over(self, stage: Stage, done: int, scores: Sequence[float]) -> bool:
        """Optional. Whether the stage ends before its updates are used up. By default it does not.

        Asked before every update of a stage that has been evaluated (`evaluation.every`). It must follow from the
        arguments alone: a resumed run asks again.

        Args:
            stage: the stage as planned.
            done: its updates so far.
            scores: the watched score (see `watches`) at each evaluation since the stage began, oldest first. Lower is
                better: scores of metrics of which higher is better come negated.
        """
        return False
