"""The variance-exploding path of EDM: data at full size, and noise of every strength."""

from __future__ import annotations

from math import atan, log
from typing import Self

import torch

from distillkit.noise.grids import blend, check_real_time_grid, ended, karras, shares
from distillkit.noise.path import NoisePath
from distillkit.noise.prediction import PredictionType


class EdmPath(NoisePath):
    """z_t = x + σε for every real time t in (−1, T]: σ_max at t = T, σ_min at t = 0; clean data is t = −1.

    Between the two σ^(1/ρ) is linear in t (Karras et al. 2022, equation 5), or log σ, without ρ. Whole times are the
    training schedule of diffusers' EDMEulerScheduler with T `num_train_timesteps`. As a table's, they begin at 0, from
    where it is one more step to clean data, where σ is 0.

    Args:
        sigma_min, sigma_max: σ_min and σ_max.
        rho: ρ; None for an exponential schedule.
        times: T.
        spacing: a grid of S steps visits t = T(1 − i/S) ("trailing"; every other time is the grid of S/2), or goes
            evenly from T to 0, both among them ("linspace": EDMEulerScheduler.set_timesteps(S)); then −1. "angle" has
            equal steps of φ = atan2(σ, 1) to clean data, where φ = 0; "karras" (see `grids.karras`) is "trailing" where
            ρ = 7. A blend is the weighted mean of two.
    """

    clean = -1.0

    def __init__(
        self,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float | None = 7.0,
        times: int = 1000,
        spacing: str = "trailing",
    ) -> None:
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho
        self.times = times
        self.start = float(times)
        self.spacing = spacing

    @property
    def initial_scale(self) -> float:
        """√(σ_max² + 1), what z has as its standard deviation where x has 1: EDMEulerScheduler's init_noise_sigma.

        Karras et al. begin at σ_max itself, which is less by 0.008 % where σ_max = 80.
        """
        return float((self.sigma_max**2 + 1) ** 0.5)

    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """1 and σ at times t: [B] -> two of [B, 1, 1, 1]."""
        ramp = 1 - t.double() / self.times
        if self.rho is None:
            sigma = (log(self.sigma_max) + ramp * log(self.sigma_min / self.sigma_max)).exp()
        else:
            low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
            sigma = (high + ramp * (low - high)) ** self.rho
        sigma = torch.where(t == self.clean, 0, sigma).float().view(-1, 1, 1, 1)
        return torch.ones_like(sigma), sigma

    def grid(self, steps: int) -> torch.Tensor:
        """Times (float64) of a sampler of `steps` steps, [steps + 1], noise first, −1 last."""
        return ended(blend(self.spacing, lambda name: self.times_of(name, steps)), self.clean, self.spacing)

    def times_of(self, name: str, steps: int) -> torch.Tensor:
        """The times of a grid with one spacing, noise first: [S], float64."""
        share = shares(steps)
        if name in ("trailing", "linspace"):
            last = 1 / steps if name == "trailing" else 0.0
            return torch.linspace(1, last, steps, dtype=torch.float64) * self.times
        if name == "angle":
            sigma = (share * atan(self.sigma_max)).tan()
        else:
            sigma = karras(name, steps, self.sigma_min, self.sigma_max)
        # Without rounding where it begins.
        return torch.where(share == 1, self.start, self.time_of(sigma))

    def time_of(self, sigma: torch.Tensor) -> torch.Tensor:
        """t, of any shape: the inverse of `alpha_sigma`."""
        if self.rho is None:
            return (sigma / self.sigma_min).log() / log(self.sigma_max / self.sigma_min) * self.times
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        time: torch.Tensor = (sigma ** (1 / self.rho) - low) / (high - low) * self.times
        return time

    def with_grid(
        self, spacing: str, start: float | str | None = None, prediction: PredictionType | None = None
    ) -> Self:
        """The same path with other grids, all but leading, from σ_max on."""
        check_real_time_grid(spacing, start, ("trailing", "linspace", "angle", "karras"))
        return type(self)(self.sigma_min, self.sigma_max, self.rho, self.times, spacing)
