"""DPM-Solver++ multistep with explicit times, for a batch whose samples may stand at different steps of one grid.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from distillkit.noise import NoisePath


@dataclass(frozen=True)
class Walk:
    """Where the samples stand on the solver's way from noise to data.

    Attributes:
        z: noisy samples, [B, C, H, W].
        x0: x̂ of the step before, [B, C, H, W]; of no meaning where `taken` is 0.
        time: the time of that x̂, [B]; likewise.
        taken: steps taken since the noise, [B].
    """

    z: torch.Tensor
    x0: torch.Tensor
    time: torch.Tensor
    taken: torch.Tensor

    @classmethod
    def begin(cls, z: torch.Tensor, t: torch.Tensor) -> Walk:
        """At noise z [B, C, H, W], times t [B]."""
        return cls(z, z, t, torch.zeros(len(z), dtype=torch.long, device=z.device))

    def restarted(self, where: torch.Tensor, z: torch.Tensor) -> Walk:
        """Back at noise z [B, C, H, W] where the mask [B] is set; on z's device."""
        device = z.device
        kept = torch.where(where.view(-1, 1, 1, 1), z, self.z.to(device))
        return Walk(kept, self.x0.to(device), self.time.to(device), self.taken.to(device).masked_fill(where, 0))

    def step(self, x0: torch.Tensor, t: torch.Tensor, s: torch.Tensor, order: int, steps: int, path: NoisePath) -> Walk:
        """One step from t to s [B] with the network's x̂ at t [B, C, H, W].

        DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) is the DDIM step with an x̂ extrapolated from the last two:

            D = x̂_t + (x̂_t − x̂_t')/2r,   r = (λ_t − λ_t')/(λ_s − λ_t),   λ = log(α/σ),
            z_s = (σ_s/σ_t) z_t − α_s (e^(−h) − 1) D,   h = λ_s − λ_t,

        as −α_s (e^(−h) − 1) = α_s − (σ_s/σ_t) α_t is what DDIM multiplies x̂ with. Of order 1, which is DDIM itself,
        are the first step, which has nothing to extrapolate from, and the last one, to clean data, where h = ∞.

        Args:
            order: 1 or 2.
            steps: steps of the whole grid.
        """
        if order == 2:
            r = (_lambda(path, t) - _lambda(path, self.time)) / (_lambda(path, s) - _lambda(path, t))
            between = ((self.taken > 0) & (self.taken < steps - 1)).view(-1, 1, 1, 1)
            aim = torch.where(between, x0 + (x0 - self.x0) / (2 * r), x0)
        else:
            aim = x0
        return Walk(path.ddim(self.z, aim, t, s), x0, t, self.taken + 1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything, by name."""
        return dict(vars(self))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> Walk:
        """From `state_dict`."""
        return cls(**state)


def _lambda(path: NoisePath, t: torch.Tensor) -> torch.Tensor:
    """Half the log of the signal-to-noise ratio at times t: [B] -> [B, 1, 1, 1]."""
    return path.snr(t).log() / 2
