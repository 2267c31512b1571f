"""N falls by a fixed number from stage to stage (DSDGL)."""

from __future__ import annotations

from pydantic import Field

from distillkit.interfaces import Schedule
from distillkit_schedules.falling import FallingOptions


class Linear(Schedule):
    """Stages of N, N − 2, N − 4, … steps with equal shares of the updates (section 4.1.1, "Gradual DSD")."""

    name = "linear"

    class Options(FallingOptions):
        """
        Attributes:
            decrement: by how much N falls.
        """

        decrement: int = Field(2, ge=1)

    options: Options

    def ending_at(self, steps: int) -> dict[str, int]:
        """`stop`, and a `start` from which N falls to it exactly."""
        by = self.options.decrement
        falls = -(-(max(self.options.start, 4 * steps) - steps) // by)
        return {"start": steps + falls * by, "stop": steps}

    def shares(self) -> list[tuple[int, float]]:
        """Equal shares."""
        options = self.options
        return [(steps, 1.0) for steps in range(options.start, options.stop - 1, -options.decrement)]
