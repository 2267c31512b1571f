"""The cosine path over real times, as progressive distillation and the paper's training runs have it."""

from __future__ import annotations

from math import atan, exp, tan
from typing import Self

import torch

from distillkit.noise.grids import blend, ended, karras, shares
from distillkit.noise.table import TablePath, below


class CosinePath(TablePath):
    """z_t = cos(φ)x + sin(φ)ε with φ = a·u + b, u = (t + 1)/T, for every real t in (−1, T − 1]; clean data is t = −1.

    λ = log SNR = −2 log tan(a·u + b) falls from λ_max at u = 0 to λ_min at u = 1: b = arctan(e^(−λ_max/2)) and
    a = arctan(e^(−λ_min/2)) − b. A network that counts T times sees what it would see of a table; at whole times the
    path is that table. Grids are the table's without rounding. At t = −1 itself σ is 0 and not e^(−λ_max/2), so that
    the last step returns x̂.

    Args:
        times: T.
        logsnr: λ_min and λ_max.
        spacing, start: as of a table.

    Source: Salimans & Ho 2022, section 2 and their published code; λ in [−20, 20] is the paper's.
    """

    def __init__(
        self, times: int, logsnr: tuple[float, float], spacing: str = "trailing", start: int | None = None
    ) -> None:
        low, high = logsnr
        self.logsnr = logsnr
        self._b = atan(exp(-high / 2))
        self._a = atan(exp(-low / 2)) - self._b
        self._times = times
        super().__init__(self._angle(torch.arange(times)).cos().square(), spacing, start)

    def _angle(self, t: torch.Tensor) -> torch.Tensor:
        """φ at times t, in float64: where λ is −20 or 20, φ is within 5e-5 of π/2 or 0."""
        return self._a * (t.double() + 1) / self._times + self._b

    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos φ and sin φ at times t: [B] -> two of [B, 1, 1, 1]."""
        clean, angle = t == self.clean, self._angle(t)
        alpha, sigma = torch.where(clean, 1, angle.cos()), torch.where(clean, 0, angle.sin())
        return alpha.float().view(-1, 1, 1, 1), sigma.float().view(-1, 1, 1, 1)

    def grid(self, steps: int) -> torch.Tensor:
        """Times (float64) of a sampler of `steps` steps, [steps + 1], noise first, −1 last."""
        return ended(blend(self.spacing, lambda name: self.times_of(name, steps)), self.clean, self.spacing)

    def times_of(self, name: str, steps: int) -> torch.Tensor:
        """See the base class."""
        share = shares(steps)
        count, left = self.start + 1, torch.arange(steps, 0, -1, dtype=torch.float64)
        if name == "trailing":
            return left * count / steps - 1
        if name == "leading":
            return below((left - 1) * count / steps + 1, self.start)
        if name == "linspace":
            return left * (count - 1) / steps
        if name == "angle":
            # φ is linear in t, but it is b, and not 0, at t = −1.
            return share * count - (1 - share) * self._b * self._times / self._a - 1
        low, high = (tan(self._angle(torch.tensor(t)).item()) for t in (0, self.start))
        times = (karras(name, steps, low, high).atan() - self._b) * self._times / self._a - 1
        return torch.where(share == 1, self.start, times)

    def _with_grid(self, spacing: str, start: int | None) -> Self:
        return type(self)(self._times, self.logsnr, spacing, start)
