"""Built-in schedules: how the number of steps N_i decreases, and how the updates are divided."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Schedule
from distillkit_schedules.schedules import Constant, Convergence, Exponential, Halving, Linear


@hookimpl
def distillkit_schedules() -> list[type[Schedule]]:
    return [Constant, Convergence, Exponential, Halving, Linear]
