"""The straight path of flow matching, as rectified flows and diffusers' flow-matching schedulers have it."""

from __future__ import annotations

from math import pi
from typing import Self

import torch

from distillkit.errors import DistillkitError
from distillkit.noise.grids import blend, check_real_time_grid, ended, shares
from distillkit.noise.path import NoisePath
from distillkit.noise.prediction import PredictionType


class FlowPath(NoisePath):
    """z_t = (1 − σ)x + σε with σ = t/T, for every real time t in (0, T]; clean data is t = 0.

    T is what the network counts (1000 in diffusers). Only grids know of the shift (Esser et al. 2024, equation 23): of
    the even places p in (0, 1] they visit σ = s·p/(1 + (s − 1)p), so that a shift s > 1 spends more steps on noise.

    Args:
        times: T.
        shift: s.
        spacing: the places of a grid of S steps: "trailing" 1 − i/S, of which every other is the grid of S/2 (Flux's
            pipeline hands its scheduler these); "linspace" evenly from 1 to `cleanest`, both among them, which is what
            FlowMatchEulerDiscreteScheduler.set_timesteps(S) does. Neither the shift nor places matter to "angle", with
            equal steps of φ = atan2(σ, 1 − σ) from 90° to 0, which is clean data. A blend is the weighted mean of two.
        cleanest: the last place of a "linspace" grid: that scheduler's `sigma_min`.
        terminal: the σ to which a "linspace" grid is stretched, its `shift_terminal`; None: it is not.
        only_trailing: whether the model's own pipeline cannot be sampled with other grids.

    Source: Liu et al. 2023, "Flow Straight and Fast"; Esser et al. 2024.
    """

    clean = 0.0

    def __init__(
        self,
        times: int = 1000,
        shift: float = 1.0,
        spacing: str = "trailing",
        cleanest: float = 0.001,
        terminal: float | None = None,
        only_trailing: bool = False,
    ) -> None:
        self.times = times
        self.start = float(times)
        self.shift = shift
        self.spacing = spacing
        self.cleanest = cleanest
        self.terminal = terminal
        self.only_trailing = only_trailing

    def alpha_sigma(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """1 − σ and σ = t/T at times t: [B] -> two of [B, 1, 1, 1]."""
        sigma = (t.double() / self.times).view(-1, 1, 1, 1)
        return (1 - sigma).float(), sigma.float()

    def grid(self, steps: int) -> torch.Tensor:
        """Times (float64) of a sampler of `steps` steps, [steps + 1], noise first, 0 last."""
        return ended(blend(self.spacing, lambda name: self.times_of(name, steps)), self.clean, self.spacing)

    def times_of(self, name: str, steps: int) -> torch.Tensor:
        """The times of a grid with one spacing, noise first: [S], float64."""
        if name == "trailing":
            sigma = self.shifted(shares(steps))
        elif name == "linspace":
            sigma = self.shifted(torch.linspace(1, self.cleanest, steps, dtype=torch.float64))
            if self.terminal is not None and steps > 1:
                sigma = 1 - (1 - sigma) * (1 - self.terminal) / (1 - sigma[-1])
        else:
            angle = shares(steps) * (pi / 2)
            sigma = angle.sin() / (angle.sin() + angle.cos())
        return sigma * self.times

    def shifted(self, place: torch.Tensor) -> torch.Tensor:
        """σ at places in (0, 1], of any shape."""
        return self.shift * place / (1 + (self.shift - 1) * place)

    def with_grid(
        self, spacing: str, start: float | str | None = None, prediction: PredictionType | None = None
    ) -> Self:
        """The same path with other grids, trailing, angle or (but for `only_trailing`) linspace, from pure noise on."""
        check_real_time_grid(spacing, start, ("trailing", "linspace", "angle"))
        if spacing == "linspace" and self.only_trailing:
            raise DistillkitError(
                'grid.spacing: is "linspace", and the model\'s pipeline passes its scheduler "trailing" grids; set it '
                "to that"
            )
        return type(self)(self.times, self.shift, spacing, self.cleanest, self.terminal, self.only_trailing)
