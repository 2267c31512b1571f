"""A schedule for distillkit: N falls by a factor from stage to stage."""

from __future__ import annotations

from pydantic import Field

from distillkit import hookimpl
from distillkit.interfaces import Schedule


class Geometric(Schedule):
    """Stages of N, N/q, N/q², … steps, each rounded down to an even number, with equal shares of the updates."""

    name = "geometric"

    class Options(Schedule.Options):
        """
        Attributes:
            start: N of the first stage.
            factor: q, by which N falls.
        """

        start: int = Field(64, ge=2, multiple_of=2)
        factor: float = Field(1.5, gt=1)

    options: Options

    def shares(self) -> list[tuple[int, float]]:
        """Equal shares, down to a stage of 2 steps at the least."""
        shares, steps = [], self.options.start
        while steps >= 2:
            shares.append((steps, 1.0))
            steps = min(int(steps / self.options.factor) // 2 * 2, steps - 2)
        return shares


@hookimpl
def distillkit_schedules() -> list[type[Schedule]]:
    return [Geometric]
