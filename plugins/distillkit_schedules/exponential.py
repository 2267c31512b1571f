"""N falls by a fixed number, and the fewer the steps the more updates (DSDGEXP)."""

from __future__ import annotations

from math import exp

from pydantic import Field

from distillkit_schedules.linear import Linear


class Exponential(Linear):
    """Stages as `linear`, with shares proportional to exp(τ/S_i), S_i the number of steps that the stage leads to.

    S_i = N_i − decrement, and 1 for a last stage that would lead to none (appendix J). Equation (2) as printed is not
    normalised, and read literally gives one stage 86 % of the updates; its text asks for more updates at fewer steps.
    """

    name = "exponential"

    class Options(Linear.Options):
        """
        Attributes:
            tau: τ, how steeply the shares rise.
        """

        tau: float = Field(1.0, ge=0, le=100)

    options: Options

    def shares(self) -> list[tuple[int, float]]:
        """Shares that grow as the steps get fewer."""
        return [
            (steps, exp(self.options.tau / max(steps - self.options.decrement, 1))) for steps, _ in super().shares()
        ]
