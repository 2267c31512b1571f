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

    def shares(self) -> list[tuple[int, float]]:
        """Equal shares."""
        options = self.options
        return [(steps, 1.0) for steps in range(options.start, options.stop - 1, -options.decrement)]
