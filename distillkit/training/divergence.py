"""When a run has diverged: what is not finite, or has run away from where it began."""

from __future__ import annotations

from math import isfinite
from typing import Any

from distillkit.config import RunTable
from distillkit.errors import DistillkitError

FIRST = 20
"""Updates at a run's beginning that later ones are compared with."""

ROLLBACKS = 5
"""How often a run goes back before it stops."""

SKIPS = 50
"""Updates in a row that may be left out before a run stops."""


class Diverged(DistillkitError):
    """The run has diverged. It may go back to a checkpoint."""


class Watch:
    """Looks at the journal's lines, in their order.

    Args:
        limits: the config's `[run]`.
    """

    def __init__(self, limits: RunTable) -> None:
        self._limits = {"loss": limits.loss_limit, "x0_rms": limits.x0_limit}
        self._first: dict[str, list[float]] = {key: [] for key in self._limits}
        self.skips = limits.on_divergence == "skip"
        """Whether updates that are not finite are left out."""
        self._skipped = 0

    def see(self, line: dict[str, Any]) -> None:
        """Look at an update's line.

        Raises:
            Diverged: its loss or its gradient's norm is not finite, and it was not left out, as too many before were;
                or its loss or the rms of x̂ is more than `run.loss_limit` or `run.x0_limit` times the largest of the
                first updates.
        """
        where = f"update {line['update']}"
        self._skipped = self._skipped + 1 if line.get("skipped") else 0
        if 0 < self._skipped <= SKIPS:
            return
        advice = f"the run has diverged; lower optimizer.learning_rate (it was {line['learning_rate']:.2g} there)"
        if self._skipped:
            raise Diverged(f"{where}: it and the {SKIPS} before it are not finite: {advice}")
        if not isfinite(line["loss"] + line["grad_norm"] + line["x0_rms"]):
            raise Diverged(f"{where}: the loss is {line['loss']} and the gradient's norm {line['grad_norm']}: {advice}")
        for key, limit in self._limits.items():
            first = self._first[key]
            if len(first) < FIRST:
                first.append(line[key])
            elif line[key] > limit * max(*first, FLOORS[key]):
                raise Diverged(
                    f"{where}: {NAMES[key]} is {line[key]:.3g}, more than {limit:g} times what it was in the first "
                    f"{FIRST} updates ({max(first):.3g} at most): {advice}, or raise run.{LIMITS[key]}"
                )


NAMES = {"loss": "the loss", "x0_rms": "the root mean square of x̂"}
FLOORS = {"loss": 0.0, "x0_rms": 1.0}
"""At the noisy end x̂ is small, and a walk's first updates may see no other: data are of about unit size."""
LIMITS = {"loss": "loss_limit", "x0_rms": "x0_limit"}
