"""N stays what it is (DSDN; also plain training)."""

from __future__ import annotations

from pydantic import Field

from distillkit.interfaces import Schedule


class Constant(Schedule):
    """One stage of `steps` steps (section 4.1.1, "Naive DSD")."""

    name = "constant"

    class Options(Schedule.Options):
        """
        Attributes:
            steps: N.
        """

        steps: int = Field(64, ge=1)

    options: Options

    def ending_at(self, steps: int) -> dict[str, int]:
        """N itself."""
        return {"steps": steps}

    def shares(self) -> list[tuple[int, float]]:
        """One stage, all updates."""
        return [(self.options.steps, 1.0)]
