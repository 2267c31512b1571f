"""Built-in schedules: how the number of steps N_i falls, and how the updates are shared out."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Schedule
from distillkit_schedules.constant import Constant
from distillkit_schedules.convergence import Convergence
from distillkit_schedules.exponential import Exponential
from distillkit_schedules.halving import Halving
from distillkit_schedules.linear import Linear


@hookimpl
def distillkit_schedules() -> list[type[Schedule]]:

    return [Constant, Convergence, Exponential, Halving, Linear]
