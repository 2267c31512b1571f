"""Noise paths z_t = α_t x + σ_t ε: grids of times, and the deterministic steps along them.

Shapes: B batch, C H W sample. A time is a number per sample, [B]; what it counts is the path's own business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import torch

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
            spacing: one of `SPACINGS`, or a blend of two, as `weights` reads it.
            start: the noisiest time of a grid; None for the last one, "auto" or "late" for one that suits the network.
            prediction: what the network predicts, on which "auto" depends.

        Raises:
            DistillkitError: the path has no such grids.
        """

    def teacher_grid(self, spacing: str) -> Self:
        """The same path with grids for a teacher's own walks: of this spacing, and beginning where the noise does.

        Raises what `with_grid` raises.
        """
        return self.with_grid(spacing)

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
