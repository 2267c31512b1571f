"""Every schedule's stages, and how the updates are shared out among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import exp

import pytest
from distillkit_schedules.schedules import Constant, Convergence, Exponential, Halving, Linear
from pydantic import ValidationError

from distillkit.interfaces import Schedule, Stage
from distillkit.registry import load_registry

Unit = Callable[[int], int]


def jumps(steps: int) -> int:
    """Updates of one whole trajectory with the methods' stride of 2."""
    return steps // 2


def one(steps: int) -> int:
    """Where trajectories do not matter."""
    return 1


def constant(start: int) -> Schedule:
    return Constant(Constant.Options(steps=start))


def halving(start: int, stop: int = 2) -> Schedule:
    return Halving(Halving.Options(start=start, stop=stop))


def linear(start: int, stop: int = 2, decrement: int = 2) -> Schedule:
    return Linear(Linear.Options(start=start, stop=stop, decrement=decrement))


def exponential(start: int, stop: int = 2, tau: float = 1.0) -> Schedule:
    return Exponential(Exponential.Options(start=start, stop=stop, tau=tau))


def updates(stages: list[Stage]) -> list[int]:
    return [stage.updates for stage in stages]


def test_built_in_schedules_are_registered() -> None:
    registry = load_registry()
    classes = {"constant": Constant, "convergence": Convergence, "exponential": Exponential}
    classes |= {"halving": Halving, "linear": Linear}
    assert {name: registry.find("schedule", name) for name in classes} == classes


@pytest.mark.parametrize(
    ("schedule", "stages"),
    [
        (constant(64), [64]),
        (constant(1), [1]),
        (halving(64), [64, 32, 16, 8, 4, 2]),
        (halving(8), [8, 4, 2]),
        # An odd stage, which the config's checks refuse for a target that jumps two steps.
        (halving(10), [10, 5, 2]),
        (halving(64, stop=8), [64, 32, 16, 8]),
        (halving(64, stop=9), [64, 32, 16]),
        (linear(10), [10, 8, 6, 4, 2]),
        (linear(64), list(range(64, 0, -2))),
        (linear(64, stop=10, decrement=16), [64, 48, 32, 16]),
        (exponential(10), [10, 8, 6, 4, 2]),
        (exponential(8, stop=8), [8]),
    ],
)
def test_stages(schedule: Schedule, stages: list[int]) -> None:
    assert [steps for steps, _ in schedule.shares()] == stages
    # Every stage is listed, with no update if there are too few.
    assert [stage.steps for stage in schedule.plan(1, jumps)] == stages


@pytest.mark.parametrize(
    ("schedule", "total", "expected"),
    [
        # 666.67 each, in whole trajectories of 32, 16, 8, 4, 2 and 1.
        (halving(64), 4000, [672, 656, 672, 668, 666, 666]),
        (halving(64), 5000, [832, 832, 832, 836, 834, 834]),
        (constant(64), 5000, [5000]),
        (halving(8), 10, [4, 2, 4]),
        # Too few for whole trajectories: parts of them.
        (halving(8), 7, [2, 3, 2]),
        (halving(64), 7, [1, 1, 2, 1, 1, 1]),
        (halving(64), 1, [0, 0, 0, 1, 0, 0]),
        (linear(10), 7, [1, 2, 1, 2, 1]),
        (linear(10), 1, [0, 0, 1, 0, 0]),
        (constant(10), 7, [7]),
        # Without a stage of one update per trajectory, the last stage takes the remainder.
        (halving(64, stop=16), 100, [32, 32, 36]),
    ],
)
def test_updates_worked_out_by_hand(schedule: Schedule, total: int, expected: list[int]) -> None:
    assert updates(schedule.plan(total, jumps)) == expected


def test_thirty_two_equal_stages() -> None:
    """DSDGL, P = 4000: 125 each where trajectories do not matter, and else within a trajectory of it."""
    assert updates(linear(64).plan(4000, one)) == [125] * 32
    stages = linear(64).plan(4000, jumps)
    assert len(stages) == 32
    assert all(stage.updates % jumps(stage.steps) == 0 for stage in stages)
    assert all(abs(stage.updates - 125) <= jumps(stage.steps) for stage in stages)


@pytest.mark.parametrize("total", [4000, 5000])
@pytest.mark.parametrize("tau", [0.5, 1.0, 4.0])
def test_exponential_shares(total: int, tau: float) -> None:
    """share_i ∝ exp(τ/S_i), S_i = N_i − 2 and 1 for the last; more updates at fewer steps."""
    weights = [exp(tau / max(steps - 2, 1)) for steps in range(64, 0, -2)]
    assert weights[-1] == exp(tau)
    expected = [total * weight / sum(weights) for weight in weights]
    stages = exponential(64, tau=tau).plan(total, one)
    assert sum(updates(stages)) == total
    assert updates(stages) == pytest.approx(expected, abs=1)
    assert max(updates(stages)) == stages[-1].updates


def test_exponential_of_tau_zero_is_linear() -> None:
    assert exponential(64, tau=0).plan(4000, jumps) == linear(64).plan(4000, jumps)


def every_plan() -> Iterator[tuple[Schedule, int, Unit]]:
    totals = [*range(1, 70), 99, 100, 393, 500, 989, 1000, 4000, 4001, 5000, 65000]
    for start in (2, 4, 8, 10, 16, 30, 64):
        schedules = [constant(start), halving(start), linear(start), linear(start, decrement=6), exponential(start)]
        for schedule in [*schedules, exponential(start, tau=20)]:
            for total in totals:
                for unit in (one, jumps, lambda steps: steps):
                    yield schedule, total, unit


def test_every_plan_is_exact_whole_and_fair() -> None:
    """By brute force. A share is met to half a trajectory of its own and half of the one before it."""
    whole = 0
    for schedule, total, unit in every_plan():
        shares = schedule.shares()
        due = [total * share / sum(share for _, share in shares) for _, share in shares]
        units = [max(unit(steps), 1) for steps, _ in shares]
        stages = schedule.plan(total, lambda steps, unit=unit: max(unit(steps), 1))
        given = updates(stages)
        case = (schedule.name, shares[0][0], total, given)

        assert sum(given) == total, case
        assert min(given) >= 0, case
        for i, stage in enumerate(stages):
            slack = (units[i] + units[max(i - 1, 0)]) / 2
            assert abs(stage.updates - due[i]) <= slack + 1e-6, case
        # With a trajectory's worth of updates for every stage, all but the last stage have whole trajectories.
        if all(part >= units[max(i - 1, 0)] for i, part in enumerate(due)):
            whole += 1
            assert all(count % size == 0 for count, size in zip(given[:-1], units[:-1], strict=True)), case
            assert min(given) > 0, case
            assert given[-1] % units[-1] == 0 or units[-1] > 1, case
    assert whole > 1000


def test_stop_above_start_is_an_error() -> None:
    for options in (Halving.Options, Linear.Options, Exponential.Options):
        with pytest.raises(ValidationError, match="stop = 8 must not be above start = 4"):
            options(start=4, stop=8)
