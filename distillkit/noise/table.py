"""α and σ given as a table of whole times."""

from __future__ import annotations

from math import exp
from typing import Self, cast

import numpy as np
import torch

from distillkit.errors import DistillkitError, GridError
from distillkit.noise.grids import blend, ended, karras, shares
from distillkit.noise.path import NoisePath
from distillkit.noise.prediction import PredictionType

AUTO_START_RATIO = 20.0
"""`start = "auto"` begins an ε-network's grids where σ/α, the factor on the error of x̂ = (z − σε̂)/α, is at most this.

20 is t = 831 of LDM's table, where α = 0.05. On that table a 32×32 ε-network's few-step scores were best from about
800 to 900 (ratios 15 to 34); from 700 (ratio 8, α = 0.13) they were worse than from the table's end.
"""

LATE_START_RATIOS = {"epsilon": 2.5}
LATE_START_RATIO = 10.0
"""The same for `start = "late"`, for ε and for all others: t = 447 and 735 of LDM's table. docs/study.md has the scores
of an ε- and a v-teacher: beyond, a student learns jumps that say little about the clean sample."""

NOISIEST = exp(5.1)
"""The largest σ/α where a solver begins: diffusers' advice for cosine tables (DPM-Solver's `lambda_min_clipped`)."""


class TablePath(NoisePath):
    """z_t = √ᾱ_t x + √(1 − ᾱ_t) ε for t = 0 … T − 1; clean data is t = −1.

    Args:
        alphas_cumprod: ᾱ, [T], falling.
        spacing: where a grid of S steps has its times, of the T' = start + 1 noisiest-to-cleanest ones:
            "trailing" T' − i·T'/S − 1, which begins at the noise; "leading" (S − 1 − i)·⌊T'/S⌋ + offset, as CompVis
            does with an offset of 1, which begins below it; "linspace" (T' − 1)(1 − i/S), which is evenly from T' − 1
            to 0 with clean data in the place of 0, as diffusers' DPM-Solver has it; "angle", with equal steps of
            φ = atan2(σ, α) from the start to clean data, where φ = 0; "karras", see `grids.karras`, between the σ/α
            of the start and of time 0; or a blend, the weighted mean of two. All are rounded.
        start: the noisiest time a grid may use, 0 … T − 1; None is T − 1.
        offset: of leading grids.
        origin: the number of evenly spaced times, 1 … T', among which consistency samplers choose theirs; None: all T'.

    Source: Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", Table 2.
    """

    clean = -1.0
    start: int
    variance_preserving = True

    def __init__(
        self,
        alphas_cumprod: torch.Tensor,
        spacing: str = "trailing",
        start: int | None = None,
        offset: int = 1,
        origin: int | None = None,
    ) -> None:
        self.alphas_cumprod = alphas_cumprod.to(torch.float64).cpu()
        self.spacing = spacing
        self.offset = offset
        self.origin = origin
        self.start = len(self.alphas_cumprod) - 1 if start is None else start
        if not 0 <= self.start < len(self.alphas_cumprod):
            raise GridError(
                f"grid.start: must be 0 to {len(self.alphas_cumprod) - 1}, the model's times (got {self.start})"
            )
        if origin is not None and not 1 <= origin <= self.start + 1:
            raise GridError(f"origin: must be 1 to {self.start + 1}, the times (got {origin})")
        # One entry in front for the clean time −1, where α = 1 and σ = 0.
        bar = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod])
        self._table = torch.stack([bar.sqrt(), (1 - bar).sqrt()]).float()
        self._copies: dict[torch.device, torch.Tensor] = {}

    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """√ᾱ and √(1 − ᾱ) at times t: [B] -> two of [B, 1, 1, 1]."""
        if t.device not in self._copies:
            # One for each device: noised data are made on the CPU, and the step asks where the network is.
            self._copies[t.device] = self._table.to(t.device)
        alpha, sigma = self._copies[t.device][:, t + 1].view(2, -1, 1, 1, 1)
        return alpha, sigma

    def grid(self, steps: int) -> torch.Tensor:
        """Times (int64) of a sampler of `steps` steps, [steps + 1], noise first, −1 last."""
        self._check(steps)
        times = blend(self.spacing, lambda name: self.times_of(name, steps))
        # numpy rounds halves to even numbers: t + 1 in diffusers' trailing grids, and t in those of linspace.
        times = times.round() if self.spacing == "linspace" else (times + 1).round() - 1
        return ended(times.long(), -1, self.spacing)

    def times_of(self, name: str, steps: int) -> torch.Tensor:
        """The times of a grid with one spacing, not rounded, noise first: [S], float64."""
        times = self.start + 1
        if name == "trailing":
            # Bit for bit what diffusers' trailing spacing, numpy's arange(T', 0, -T'/S), rounds.
            stride = (times - times / steps) - times
            return torch.arange(steps, dtype=torch.float64).mul(stride).add(times) - 1
        if name == "leading":
            return below(torch.arange(steps - 1, -1, -1) * (times // steps) + self.offset, self.start)
        if name == "linspace":
            return torch.arange(steps, 0, -1, dtype=torch.float64).mul((times - 1) / steps)
        bar = self.alphas_cumprod[:times]
        if name == "angle":
            angle = torch.atan2((1 - bar).sqrt(), bar.sqrt())
            return _times_at(shares(steps) * angle[-1], torch.cat([torch.zeros_like(angle[:1]), angle]), -1)
        ratio = ((1 - bar) / bar).sqrt()
        return _times_at(karras(name, steps, ratio[0].item(), ratio[-1].item()).log(), ratio.log(), 0)

    def consistency_times(self, steps: int) -> torch.Tensor:
        """(K − ⌊i·K/S⌋)·⌊T'/K⌋ − 1, [steps], noise first: what diffusers' LCMScheduler visits.

        K, its `original_inference_steps`, is `origin`. With K = T' they are a trailing grid's times, but for the
        rounding where S does not divide T'.
        """
        self._check(steps)
        origin = self.origin or self.start + 1
        if steps > origin:
            raise GridError(f"{steps} steps are more than the scheduler's original_inference_steps, {origin}")
        # Bit for bit numpy's linspace(0, K, S, endpoint=False), which LCMScheduler rounds down.
        chosen = torch.arange(steps, dtype=torch.float64).mul(origin / steps).floor().long()
        return (origin - chosen) * ((self.start + 1) // origin) - 1

    def _check(self, steps: int) -> None:
        times = self.start + 1
        if not 1 <= steps <= times:
            raise GridError(f"a grid of {steps} steps needs 1 to {times} steps: the noise path has {times} times")

    def with_grid(
        self, spacing: str, start: float | str | None = None, prediction: PredictionType | None = None
    ) -> Self:
        """The same table with other grids; "auto" is an `auto_start` for an ε-network, "late" one for any.

        Leading grids are CompVis' (of all times), and begin below the noise anyway. Another start leaves no `origin`.
        """
        if start == "late" and spacing != "leading":
            start = self.auto_start(LATE_START_RATIOS.get(prediction or "", LATE_START_RATIO))
        elif start in ("auto", "late"):
            start = self.auto_start() if prediction == "epsilon" and spacing != "leading" else None
        path = self._with_grid(spacing, cast(int | None, start))
        if "karras" in spacing and not path.alphas_cumprod[path.start]:
            raise DistillkitError(
                f'grid.spacing: is "{spacing}", which needs σ/α, and α = 0 where the model\'s grids begin; set it to '
                '"angle", or set grid.start to an earlier time'
            )
        return path

    def teacher_grid(self, spacing: str) -> Self:
        """See the base class. They begin at the noisiest time at which σ/α is at most `NOISIEST`, or at this path's
        start, if α is not 0 there."""
        bar = self.alphas_cumprod
        usable = int(((1 - bar) / bar).sqrt().le(NOISIEST).sum())
        return self.with_grid(spacing, max(self.start, usable - 1) if bar[self.start] else usable - 1)

    def _with_grid(self, spacing: str, start: int | None) -> Self:
        last = len(self.alphas_cumprod) - 1 if start is None else start
        return type(self)(self.alphas_cumprod, spacing, start, self.offset, self.origin if last == self.start else None)

    def auto_start(self, ratio: float = AUTO_START_RATIO) -> int:
        """The noisiest time at which σ/α is at most `ratio`, rounded down: T' = start + 1 is a multiple of 32.

        Grids of 2, 4, 8, 16 and 32 steps then nest. An ε-network's x̂ carries its error times σ/α; N(0, I) is a good
        z_t as long as α is small, so a little below the end of the table both are served.
        """
        bar = self.alphas_cumprod
        usable = int(((1 - bar) / bar).sqrt().le(ratio).sum())
        return max(usable // 32 * 32, min(usable, 32)) - 1


def below(times: torch.Tensor, start: int) -> torch.Tensor:
    """The times of a leading grid, in float64.

    Raises:
        GridError: the grid would begin past the start.
    """
    if times[0] > start:
        raise GridError(f"a leading grid of {len(times)} steps would begin at {times[0]:g}, past {start}")
    return times.double()


def _times_at(wanted: torch.Tensor, known: torch.Tensor, first: int) -> torch.Tensor:
    """Where `wanted`, [S], lies among the values `known` at the times first, first + 1, …: [S], float64."""
    return torch.from_numpy(np.interp(wanted.numpy(), known.numpy(), np.arange(first, first + len(known))))
