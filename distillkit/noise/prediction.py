"""What a network's output says about a noisy sample, whichever of ε, v, u and x it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]
"""What the network's output is: ε, v = αε − σx, x itself (diffusers' names), or flow matching's velocity u = ε − x."""


@dataclass(frozen=True)
class Prediction:
    """The denoised sample x̂ that a network sees in z = αx + σε, and the same seen as ε̂, v̂ and û.

    Attributes:
        z: the noisy samples, [B, C, H, W].
        x0: x̂, [B, C, H, W].
        alpha, sigma: α and σ at the samples' times, [B, 1, 1, 1].
    """

    z: torch.Tensor
    x0: torch.Tensor
    alpha: torch.Tensor
    sigma: torch.Tensor

    @classmethod
    def from_output(
        cls, kind: PredictionType, output: torch.Tensor, z: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
    ) -> Prediction:
        """Read a network's raw output (Salimans & Ho 2022, section 4 and appendix D; for u: Esser et al. 2024).

        For v the path must be variance-preserving (α² + σ² = 1). As z = αx + σ(u + x), x̂ = (z − σu)/(α + σ).
        """
        if kind == "epsilon":
            x0 = (z - sigma * output) / alpha
        elif kind == "v_prediction":
            x0 = alpha * z - sigma * output
        elif kind == "flow":
            x0 = (z - sigma * output) / (alpha + sigma)
        else:
            x0 = output
        return cls(z, x0, alpha, sigma)

    @property
    def eps(self) -> torch.Tensor:
        """ε̂ = (z − αx̂)/σ, [B, C, H, W]. Not defined at the clean time, where σ = 0."""
        return self.eps_of(self.x0)

    @property
    def v(self) -> torch.Tensor:
        """v̂ = αε̂ − σx̂, [B, C, H, W]. Not defined at the clean time, where σ = 0."""
        return self.v_of(self.x0)

    @property
    def u(self) -> torch.Tensor:
        """û = ε̂ − x̂, [B, C, H, W]: the velocity of flow matching. Not defined at the clean time, where σ = 0."""
        return self.u_of(self.x0)

    def eps_of(self, x0: torch.Tensor) -> torch.Tensor:
        """The ε that goes with another x̂ [B, C, H, W] at the same z and time."""
        return (self.z - self.alpha * x0) / self.sigma

    def v_of(self, x0: torch.Tensor) -> torch.Tensor:
        """The v that goes with another x̂ [B, C, H, W] at the same z and time."""
        return self.alpha * self.eps_of(x0) - self.sigma * x0

    def u_of(self, x0: torch.Tensor) -> torch.Tensor:
        """The u that goes with another x̂ [B, C, H, W] at the same z and time."""
        return self.eps_of(x0) - x0

    def detach(self) -> Prediction:
        """The same values without their gradient."""
        return Prediction(self.z.detach(), self.x0.detach(), self.alpha, self.sigma)
