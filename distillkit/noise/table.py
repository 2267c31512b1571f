"""Variance-preserving paths given as a table of ᾱ over discrete training times (DDPM, LDM, most of diffusers)."""

from __future__ import annotations

from typing import Literal, Self, cast

import torch

from distillkit.errors import GridError
from distillkit.noise.path import NoisePath
from distillkit.noise.prediction import PredictionType

Spacing = Literal["trailing", "leading", "linspace"]

AUTO_START_RATIO = 20.0
"""`start = "auto"` begins an ε-network's grids where σ/α, the factor on the error of x̂ = (z − σε̂)/α, is at most this.

20 is t = 831 of LDM's table, where α = 0.05. On that table a 32×32 ε-network's few-step scores were best from about
800 to 900 (ratios 15 to 34); from 700 (ratio 8, α = 0.13) they were worse than from the table's end.
"""


class TablePath(NoisePath):
    """z_t = √ᾱ_t x + √(1 − ᾱ_t) ε for t = 0 … T − 1; clean data is t = −1.

    Args:
        alphas_cumprod: ᾱ, [T], falling.
        spacing: where a grid of S steps has its times, of the T' = start + 1 noisiest-to-cleanest ones:
            "trailing" round(T' − i·T'/S) − 1, which begins at the noise; "leading" (S − 1 − i)·⌊T'/S⌋ + 1, as
            CompVis does, which begins below it; "linspace" round((T' − 1)(1 − i/S)), which is evenly from T' − 1 to 0
            with clean data in the place of 0, as diffusers' DPM-Solver has it.
        start: the noisiest time a grid may use, 0 … T − 1; None is T − 1.

    Source: Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed", Table 2.
    """

    clean = -1.0
    start: int
    variance_preserving = True

    def __init__(self, alphas_cumprod: torch.Tensor, spacing: Spacing = "trailing", start: int | None = None) -> None:
        self.alphas_cumprod = alphas_cumprod.to(torch.float64).cpu()
        self.spacing = spacing
        self.start = len(self.alphas_cumprod) - 1 if start is None else start
        if not 0 <= self.start < len(self.alphas_cumprod):
            raise GridError(
                f"grid.start: must be 0 to {len(self.alphas_cumprod) - 1}, the model's times (got {self.start})"
            )
        # One entry in front for the clean time −1, where α = 1 and σ = 0.
        bar = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod])
        self._alpha = bar.sqrt().float()
        self._sigma = (1 - bar).sqrt().float()
        self._copies: dict[tuple[str, torch.device], torch.Tensor] = {}

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """√ᾱ at times t: [B] -> [B, 1, 1, 1]."""
        return self._look_up("_alpha", t)

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """√(1 − ᾱ) at times t: [B] -> [B, 1, 1, 1]."""
        return self._look_up("_sigma", t)

    def _look_up(self, name: str, t: torch.Tensor) -> torch.Tensor:
        key = (name, t.device)
        if key not in self._copies:
            # One for each device: noised data are made on the CPU, and the step asks where the network is.
            self._copies[key] = getattr(self, name).to(t.device)
        return self._copies[key][t + 1].view(-1, 1, 1, 1)

    def grid(self, steps: int) -> torch.Tensor:
        """Times (int64) of a sampler of `steps` steps, [steps + 1], noise first, −1 last."""
        self._check(steps)
        times = self.start + 1
        if self.spacing == "trailing":
            # Bit for bit what diffusers' trailing spacing, numpy's arange(T', 0, -T'/S), rounds.
            stride = (times - times / steps) - times
            grid = torch.arange(steps, dtype=torch.float64).mul(stride).add(times).round() - 1
        elif self.spacing == "leading":
            grid = torch.arange(steps - 1, -1, -1) * (times // steps) + 1
            if grid[0] > self.start:
                raise GridError(f"a leading grid of {steps} steps would begin at {int(grid[0])}, past {self.start}")
        else:
            grid = torch.arange(steps, 0, -1, dtype=torch.float64).mul((times - 1) / steps).round()
        return torch.cat([grid.long(), torch.tensor([-1])])

    def consistency_times(self, steps: int) -> torch.Tensor:
        """T' − 1 − ⌊i·T'/S⌋, [steps], noise first: what diffusers' LCMScheduler visits (`original_inference_steps` T').

        A trailing grid's times, but for the rounding where S does not divide T'.
        """
        self._check(steps)
        times = self.start + 1
        # Bit for bit numpy's linspace(0, T', S, endpoint=False), which LCMScheduler rounds down.
        return self.start - torch.arange(steps, dtype=torch.float64).mul(times / steps).floor().long()

    def _check(self, steps: int) -> None:
        times = self.start + 1
        if not 1 <= steps <= times:
            raise GridError(f"a grid of {steps} steps needs 1 to {times} steps: the noise path has {times} times")

    def with_grid(
        self, spacing: str, start: float | str | None = None, prediction: PredictionType | None = None
    ) -> Self:
        """The same table with other grids; "auto" is `auto_start` for an ε-network, and the last time for any other.

        Leading grids are CompVis' (of all times), and begin below the noise anyway.
        """
        if start == "auto":
            start = self.auto_start() if prediction == "epsilon" and spacing != "leading" else None
        return self._with_grid(cast(Spacing, spacing), cast(int | None, start))

    def _with_grid(self, spacing: Spacing, start: int | None) -> Self:
        return type(self)(self.alphas_cumprod, spacing, start)

    def auto_start(self, ratio: float = AUTO_START_RATIO) -> int:
        """The noisiest time at which σ/α is at most `ratio`, rounded down: T' = start + 1 is a multiple of 32.

        Grids of 2, 4, 8, 16 and 32 steps then nest. An ε-network's x̂ carries its error times σ/α; N(0, I) is a good
        z_t as long as α is small, so a little below the end of the table both are served.
        """
        bar = self.alphas_cumprod
        usable = int(((1 - bar) / bar).sqrt().le(ratio).sum())
        return max(usable // 32 * 32, min(usable, 32)) - 1
