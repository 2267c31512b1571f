"""The straight path of flow matching, as rectified flows and diffusers' flow-matching schedulers have it."""

from __future__ import annotations

from typing import Literal, Self

import torch

from distillkit.errors import DistillkitError, GridError
from distillkit.noise.path import NoisePath, check_real_time_grid
from distillkit.noise.prediction import PredictionType

FlowSpacing = Literal["trailing", "linspace"]


class FlowPath(NoisePath):
    """z_t = (1 − σ)x + σε with σ = t/T, for every real time t in (0, T]; clean data is t = 0.

    T is what the network counts (1000 in diffusers). Only grids know of the shift (Esser et al. 2024, equation 23): of
    the even places p in (0, 1] they visit σ = s·p/(1 + (s − 1)p), so that a shift s > 1 spends more steps on noise.

    Args:
        times: T.
        shift: s.
        spacing: the places of a grid of S steps: "trailing" 1 − i/S, of which every other is the grid of S/2 (Flux's
            pipeline hands its scheduler these); "linspace" evenly from 1 to `cleanest`, both among them, which is what
            FlowMatchEulerDiscreteScheduler.set_timesteps(S) does.
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
        spacing: FlowSpacing = "trailing",
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
        if steps < 1:
            raise GridError(f"a grid of {steps} steps needs at least 1")
        if self.spacing == "trailing":
            sigma = self.shifted(torch.arange(steps, 0, -1, dtype=torch.float64) / steps)
        else:
            sigma = self.shifted(torch.linspace(1, self.cleanest, steps, dtype=torch.float64))
            if self.terminal is not None and steps > 1:
                sigma = 1 - (1 - sigma) * (1 - self.terminal) / (1 - sigma[-1])
        return torch.cat([sigma * self.times, torch.zeros(1, dtype=torch.float64)])

    def shifted(self, place: torch.Tensor) -> torch.Tensor:
        """σ at places in (0, 1], of any shape."""
        return self.shift * place / (1 + (self.shift - 1) * place)

    def with_grid(
        self, spacing: str, start: float | str | None = None, prediction: PredictionType | None = None
    ) -> Self:
        """The same path with other grids, trailing or (but for `only_trailing`) linspace, from pure noise on."""
        spacing = check_real_time_grid(spacing, start)
        if spacing == "linspace" and self.only_trailing:
            raise DistillkitError(
                'grid.spacing: is "linspace", and the model\'s pipeline passes its scheduler "trailing" grids; set it '
                "to that"
            )
        return type(self)(self.times, self.shift, spacing, self.cleanest, self.terminal, self.only_trailing)
