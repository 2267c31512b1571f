"""The plan of a run: stages, N_i, updates and evaluations. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from math import gcd

from distillkit.config.settings import Components
from distillkit.interfaces import PrecomputingSource, Stage


def make_plan(settings: Components) -> list[Stage]:
    """Divide the run's updates among the schedule's stages."""
    accumulate = settings.optimizer.accumulate

    def trajectory(steps: int) -> int:
        if not settings.source.sequential:
            return 1
        jumps = steps // stride(settings, Stage(steps, 0))
        return jumps // gcd(jumps, accumulate)

    stages = settings.schedule.plan(settings.run.updates, trajectory)
    return [
        replace(stage, stride=stride(settings, stage), evaluations=accumulate * _evaluations(settings, stage))
        for stage in stages
    ]


def evaluations_before(settings: Components, plan: list[Stage]) -> int:
    """Evaluations before the first update, if no run has done any of the source's work before."""
    source = settings.source
    return source.evaluations_before(plan) if isinstance(source, PrecomputingSource) else 0


def stride(settings: Components, stage: Stage) -> int:
    """The target's stride; 1 without a target (plain training)."""
    return 1 if settings.target is None else settings.target.stride(stage)


def _evaluations(settings: Components, stage: Stage) -> int:
    """Evaluations per batch: the student's, and the target's."""
    if settings.target is None or settings.teacher is None:
        return 1
    return 1 + settings.target.teacher_evaluations(stage, settings.teacher)
