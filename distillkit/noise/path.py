"""Noise paths z_t = α_t x + σ_t ε: grids of times, the deterministic steps along them, and α and σ given as a table.

Shapes: B batch, C H W sample. A time is a number per sample, [B]; what it counts is the path's own business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, Self, cast

import torch

from distillkit.errors import DistillkitError, GridError
from distillkit.noise.prediction import PredictionType


class NoisePath(ABC):
    """α(t) and σ(t), and everything that follows from them alone.

    Variance-preserving tables, flow matching (α = 1 − t, σ = t) and EDM (α = 1) are all paths.
    """

    clean: ClassVar[float]
    """The time of clean data, where α = 1 and σ = 0: the end of every grid."""
    start: float
    """The noisiest time at which a grid may begin."""
    spacing: str = "trailing"
    """How its grids lie between the two, as `grid.spacing` names it."""
    variance_preserving: ClassVar[bool] = False
    """Whether α² + σ² = 1 at every time, without which v = αε − σx says nothing about x."""

    @property
    def initial_scale(self) -> float:
        """What N(0, I) is multiplied by, to be z where a grid begins: about σ there."""
        return 1.0

    @abstractmethod
    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α and σ (float32) at times t: [B] -> two of [B, 1, 1, 1]."""

    @abstractmethod
    def grid(self, steps: int) -> torch.Tensor:
        """The times of a sampler of `steps` steps: [steps + 1], noise first, `clean` last.

        Whole numbers where there are no times between them, floating-point ones where every real time is one.

        Raises:
            GridError: the path has no grid of so many steps.
        """

    @abstractmethod
    def with_grid(
        self, spacing: str, start: float | str | None = None, prediction: PredictionType | None = None
    ) -> Self:
        """The same path with other grids, as the config's `[grid]` asks for them.

        Args:
            spacing: "trailing", "leading" or "linspace".
            start: the noisiest time of a grid; None for the last one, "auto" for the one that suits the network.
            prediction: what the network predicts, on which "auto" depends.

        Raises:
            DistillkitError: the path has no such grids.
        """

    def consistency_times(self, steps: int) -> torch.Tensor:
        """The times at which a consistency sampler of `steps` steps asks the network: [steps], noise first.

        Raises:
            GridError: the path has not so many times.
        """
        return self.grid(steps)[:-1]

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio α²/σ² at times t: [B] -> [B, 1, 1, 1]; its logarithm is λ."""
        alpha, sigma = self.alpha_sigma(t)
        return (alpha / sigma).square()

    def noised(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """z_t = α_t x + σ_t ε, [B, C, H, W]."""
        alpha, sigma = self.alpha_sigma(t)
        return alpha * x + sigma * noise

    def ddim(self, z: torch.Tensor, x0: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """One deterministic DDIM step t -> s (Song et al. 2021; Algorithm 2, line "2 steps of DDIM").

        z_s = α_s x̂ + (σ_s/σ_t)(z_t − α_t x̂), with z, x0 and the result [B, C, H, W] and t, s [B].
        """
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        return alpha_s * x0 + sigma_s / sigma_t * (z - alpha_t * x0)

    def invert_ddim(self, z: torch.Tensor, z_s: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """The x̂ that one DDIM step from z at t would need, to land on z_s at s (Algorithms 1 and 2).

        x̃ = (z_s − (σ_s/σ_t) z_t)/(α_s − (σ_s/σ_t) α_t). With σ_s = 0 and α_s = 1 it is z_s itself.
        """
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        ratio = sigma_s / sigma_t
        return (z_s - ratio * z) / (alpha_s - ratio * alpha_t)


def check_real_time_grid(spacing: str, start: float | str | None) -> Literal["trailing", "linspace"]:
    """The spacing of a path over real times, whose grids all begin at its noisiest time: there z is just scaled noise.

    Raises:
        DistillkitError: `[grid]` asks for another spacing or start.
    """
    if spacing not in ("trailing", "linspace"):
        raise DistillkitError(
            f'grid.spacing: is "{spacing}", and the model\'s noise path has grids that begin at the noise; expected '
            '"trailing" or "linspace"'
        )
    if start not in ("auto", None):
        raise DistillkitError(
            f"grid.start: is {start}, and the grids of the model's noise path begin at its noisiest time; leave it out"
        )
    return cast(Literal["trailing", "linspace"], spacing)


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
            "trailing" round(T' − i·T'/S) − 1, which begins at the noise; "leading" (S − 1 − i)·⌊T'/S⌋ + offset, as
            CompVis does with an offset of 1, which begins below it; "linspace" round((T' − 1)(1 − i/S)), which is
            evenly from T' − 1 to 0 with clean data in the place of 0, as diffusers' DPM-Solver has it.
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
        spacing: Spacing = "trailing",
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
        times = self.start + 1
        if self.spacing == "trailing":
            # Bit for bit what diffusers' trailing spacing, numpy's arange(T', 0, -T'/S), rounds.
            stride = (times - times / steps) - times
            grid = torch.arange(steps, dtype=torch.float64).mul(stride).add(times).round() - 1
        elif self.spacing == "leading":
            grid = torch.arange(steps - 1, -1, -1) * (times // steps) + self.offset
            if grid[0] > self.start:
                raise GridError(f"a leading grid of {steps} steps would begin at {int(grid[0])}, past {self.start}")
        else:
            grid = torch.arange(steps, 0, -1, dtype=torch.float64).mul((times - 1) / steps).round()
        return torch.cat([grid.long(), torch.tensor([-1])])

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
        """The same table with other grids; "auto" is `auto_start` for an ε-network, and the last time for any other.

        Leading grids are CompVis' (of all times), and begin below the noise anyway. Another start leaves no `origin`.
        """
        if start == "auto":
            start = self.auto_start() if prediction == "epsilon" and spacing != "leading" else None
        return self._with_grid(cast(Spacing, spacing), cast(int | None, start))

    def _with_grid(self, spacing: Spacing, start: int | None) -> Self:
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
