"""N is halved from stage to stage (DSDI, TSD, progressive distillation)."""

from __future__ import annotations

from pydantic import Field

from distillkit.interfaces import Schedule
from distillkit_schedules.falling import FallingOptions


class Halving(Schedule):
    """Stages of N, N/2, N/4, … steps with equal shares of the updates (section 4.1.1, "Iterative DSD").

    The printed U_i = P/(|N|·N_i) counts samples; equal parameter updates per stage is what the text asks for.
    """

    name = "halving"

    class Options(FallingOptions):
        """
        Attributes:
            cycles: how often N falls from `start` to `stop`. The network does not know how far it is to jump; falling
                again and again, it keeps what it learned at more steps.
        """

        cycles: int = Field(1, ge=1)

    options: Options

    def ending_at(self, steps: int) -> dict[str, int]:
        """`stop`, and a `start` that is halved to it exactly."""
        start = 4 * steps
        while start < self.options.start:
            start *= 2
        return {"start": start, "stop": steps}

    def shares(self) -> list[tuple[int, float]]:
        """Equal shares; the last stage is the last half that is at least `stop`."""
        stages, steps = [], self.options.start
        while steps >= self.options.stop:
            stages.append((steps, 1.0))
            steps //= 2
        return stages * self.options.cycles
