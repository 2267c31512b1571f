"""Solvers between noise and data: diffusers' schedulers, and one for samples that are at different times.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from distillkit.noise import NoisePath


class Scheduler(Protocol):
    """What sampling needs of one of diffusers' schedulers. It is set to a number of steps, and used for one batch.

    Attributes:
        timesteps: the times at which the network is evaluated, noise first, [steps].
        init_noise_sigma: what N(0, I) is multiplied by.
    """

    timesteps: torch.Tensor
    init_noise_sigma: Any

    def scale_model_input(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """What the network is given for noisy samples, [B, C, H, W]."""

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Any:
        """An object whose `prev_sample` has the samples after the step, [B, C, H, W].

        Args:
            model_output: the network's output, [B, C, H, W], with guidance.
            timestep: the entry of `timesteps`.
            sample: noisy samples, [B, C, H, W].
        """


@dataclass(frozen=True)
class SolverState:
    """The state of DDIM or DPM-Solver++(2M) between noise and data. The samples of a batch may be at different times.

    Attributes:
        z: noisy samples, [B, C, H, W].
        x0: x̂ of the previous step, [B, C, H, W]; without meaning where `taken` is 0.
        time: the time of that x̂, [B]; without meaning where `taken` is 0.
        taken: number of steps since the noise, [B].
    """

    z: torch.Tensor
    x0: torch.Tensor
    time: torch.Tensor
    taken: torch.Tensor

    @classmethod
    def begin(cls, z: torch.Tensor, t: torch.Tensor) -> SolverState:
        """Start at noise z [B, C, H, W] and times t [B]."""
        return cls(z, z, t, torch.zeros(len(z), dtype=torch.long, device=z.device))

    def restarted(self, where: torch.Tensor, z: torch.Tensor) -> SolverState:
        """Restart at noise z [B, C, H, W] where the mask [B] is set; on z's device."""
        device = z.device
        kept = torch.where(where.view(-1, 1, 1, 1), z, self.z.to(device))
        return SolverState(kept, self.x0.to(device), self.time.to(device), self.taken.to(device).masked_fill(where, 0))

    def step(self, x0: torch.Tensor, t: torch.Tensor, s: torch.Tensor, order: int, path: NoisePath) -> SolverState:
        """One step from t to s [B] with the network's x̂ at t [B, C, H, W].

        DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) is the DDIM step with an x̂ extrapolated from the last two:

            D = x̂_t + (x̂_t − x̂_t')/2r,   r = (λ_t − λ_t')/(λ_s − λ_t),   λ = log(α/σ),
            z_s = (σ_s/σ_t) z_t − α_s (e^(−h) − 1) D,   h = λ_s − λ_t,

        because −α_s (e^(−h) − 1) = α_s − (σ_s/σ_t) α_t is DDIM's factor on x̂. The first step, which has no previous x̂,
        and the last step, to clean data, where h = ∞, are of order 1, which is DDIM.

        Args:
            x0: the network's x̂ at t, [B, C, H, W].
            t: the current times, [B].
            s: the next times, [B].
            order: 1 or 2.
            path: the noise path.
        """
        if order == 2:
            r = (_lambda(path, t) - _lambda(path, self.time)) / (_lambda(path, s) - _lambda(path, t))
            extrapolates = ((self.taken > 0) & (s != path.clean)).view(-1, 1, 1, 1)
            extrapolated = torch.where(extrapolates, x0 + (x0 - self.x0) / (2 * r), x0)
        else:
            extrapolated = x0
        return SolverState(path.ddim(self.z, extrapolated, t, s), x0, t, self.taken + 1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors by name."""
        return dict(vars(self))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> SolverState:
        """The inverse of `state_dict`."""
        return cls(**state)


def _lambda(path: NoisePath, t: torch.Tensor) -> torch.Tensor:
    """Half the log of the signal-to-noise ratio at times t: [B] -> [B, 1, 1, 1]."""
    return path.snr(t).log() / 2
