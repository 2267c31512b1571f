"""The stages of a run: the schedule's shares as updates, and what an update costs. What the parts say is checked here.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, gcd, isfinite
from typing import Any

from distillkit.config.settings import Components
from distillkit.interfaces import PrecomputingSource, Schedule, Stage
from distillkit.registry import checked, described, whole, wrong

MOST = 10_000
"""The most stages of a schedule: more would take minutes to check, and no run has them."""


def make_plan(components: Components) -> list[Stage]:
    """Divide the run's updates among the schedule's stages.

    Raises:
        PartError: a part says something that its interface does not allow.
    """
    accumulate = components.optimizer.accumulate

    def trajectory(steps: int) -> int:
        if not components.source.sequential:
            return 1
        jumps = steps // stride(components, Stage(steps, 0))
        return jumps // gcd(jumps, accumulate)

    wanted = shares(components.schedule)
    stages = components.schedule.plan(components.run.updates, trajectory)
    _check_plan(components.schedule, stages, [steps for steps, _ in wanted], components.run.updates)
    return [
        replace(stage, stride=stride(components, stage), evaluations=accumulate * _evaluations(components, stage))
        for stage in stages
    ]


def _check_plan(schedule: Schedule, stages: Any, wanted: list[int], updates: int) -> None:
    if not (isinstance(stages, list) and all(isinstance(stage, Stage) for stage in stages)):
        raise wrong(schedule, "plan()", described(stages), "a list of Stages")
    for stage in stages:
        if type(stage.steps) is not int or type(stage.updates) is not int or stage.updates < 0:
            came = f"a stage with steps={stage.steps!r} and updates={stage.updates!r}"
            raise wrong(schedule, "plan()", came, "whole numbers, and updates of at least 0")
    steps = [stage.steps for stage in stages]
    if steps != wanted:
        expected = f"one stage for each of its shares(), N = {_few(wanted)}"
        raise wrong(schedule, "plan()", f"{len(steps)} stages, N = {_few(steps)}", expected)
    total = sum(stage.updates for stage in stages)
    if not 1 <= total <= updates:
        raise wrong(schedule, "plan()", f"{total} updates in all", f"1 to {updates}, as run.updates says")


def shares(schedule: Schedule) -> Sequence[tuple[int, float]]:
    """The schedule's pairs of a number of steps and a share of the updates.

    Raises:
        PartError: they are no such pairs.
    """
    pairs, expected = schedule.shares(), "pairs of a whole and a finite number"
    checked(schedule, "shares()", pairs, isinstance(pairs, Sequence), f"a sequence of {expected}")
    if len(pairs) > MOST:
        raise wrong(schedule, "shares()", f"{len(pairs)} pairs", f"at most {MOST}: each is a stage of its own")
    for pair in pairs:
        checked(schedule, "shares()", pair, _is_share(pair), expected)
    return pairs


def _is_share(share: Any) -> bool:
    """Whether it is a pair (N, share of the updates). A whole number of steps as a float would make no grid."""
    if not (isinstance(share, Sequence) and len(share) == 2):
        return False
    steps, part = share
    return type(steps) is int and isinstance(part, int | float) and isfinite(part)


def unreached(components: Components) -> str | None:
    """A sentence on stages that get no updates although they have a share of them; None if there are none."""
    stages, parts = make_plan(components), [share for _, share in components.schedule.shares()]
    idle = [stage.steps for stage, share in zip(stages, parts, strict=True) if share > 0 and not stage.updates]
    if not idle:
        return None
    enough = ceil(sum(parts) / min(share for share in parts if share > 0))
    return (
        f"run.updates: {components.run.updates} updates for {len(stages)} stages leave {len(idle)} of them without any "
        f"(N = {_few(idle)}); give about {enough} or more"
    )


def _few(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[:4])) + ", …" * (len(steps) > 4)


def evaluations_before(components: Components, plan: list[Stage]) -> int:
    """Network evaluations before the first update, if no earlier run has done any of the source's work."""
    source, teacher = components.source, components.teacher
    if not isinstance(source, PrecomputingSource):
        return 0
    count = whole(source, "evaluations_before()", source.evaluations_before(plan), "evaluations", 0)
    return count * (1 if teacher is None else teacher.evaluations)


def stride(components: Components, stage: Stage) -> int:
    """The stride of the target in fine steps; 1 without a target (plain training)."""
    target = components.target
    return 1 if target is None else whole(target, "stride()", target.stride(stage), "fine steps", 1)


def _evaluations(components: Components, stage: Stage) -> int:
    """Network evaluations per batch: the student's, the target's and the critic's."""
    critic, judged = components.critic, 0
    if critic is not None:
        judged = whole(critic, "evaluations()", critic.evaluations(components.teacher), "evaluations", 0)
    return 1 + teacher_evaluations(components, stage) + judged


def teacher_evaluations(components: Components, stage: Stage) -> int:
    """Network evaluations per batch that are not the student's own."""
    target, teacher = components.target, components.teacher
    if target is None or teacher is None:
        return 0
    return whole(target, "teacher_evaluations()", target.teacher_evaluations(stage, teacher), "evaluations", 0)
