"""Squared errors of x̂, v̂, û and ε̂, averaged over a sample's elements."""

from __future__ import annotations

from abc import abstractmethod

import torch

from distillkit.errors import DistillkitError
from distillkit.interfaces import JumpBatch, TargetBatch
from distillkit.noise import NoisePath, Prediction
from distillkit_losses.weighted import WeightedLoss


class SquaredError(WeightedLoss):
    """w(λ_t) times the mean squared error between the student and what it is compared with."""

    def per_sample(self, jumps: JumpBatch, student: Prediction, target: TargetBatch | None) -> torch.Tensor:
        """The weighted error, [B]."""
        error = self.error(student, self.goal(jumps, target)).square().flatten(1).mean(1)
        return error * self.weight(jumps, student)

    @abstractmethod
    def error(self, student: Prediction, goal: torch.Tensor) -> torch.Tensor:
        """The student's error in this loss's own terms; `goal` is the x̂ to reach. Both [B, C, H, W]."""


class XMse(SquaredError):
    """‖x̂ − x̃‖² (Algorithms 1 and 2)."""

    name = "x-mse"

    def error(self, student: Prediction, goal: torch.Tensor) -> torch.Tensor:
        """x̂ − x̃."""
        return student.x0 - goal


class VMse(SquaredError):
    """‖v̂ − v‖², which is (SNR + 1)·‖x̂ − x‖² (equation 1's data term), on variance-preserving noise paths."""

    name = "v-mse"

    def setup(self, path: NoisePath) -> None:
        """Elsewhere v is no velocity of the path."""
        super().setup(path)
        if not path.variance_preserving:
            raise DistillkitError(
                f"loss.type: 'v-mse' is for variance-preserving noise paths, and {type(path).__name__} is "
                "none; use 'flow-mse', or 'x-mse' with a weighting"
            )

    def error(self, student: Prediction, goal: torch.Tensor) -> torch.Tensor:
        """v̂ − v."""
        return student.v - student.v_of(goal)


class FlowMse(SquaredError):
    """‖û − u‖² of the velocity u = ε − x, which is ‖x̂ − x‖²/σ² on a flow-matching path (Liu et al. 2023)."""

    name = "flow-mse"

    def error(self, student: Prediction, goal: torch.Tensor) -> torch.Tensor:
        """û − u."""
        return student.u - student.u_of(goal)


class EpsMse(SquaredError):
    """‖ε̂ − ε‖², which is SNR·‖x̂ − x‖² (Ho et al. 2020)."""

    name = "eps-mse"

    def error(self, student: Prediction, goal: torch.Tensor) -> torch.Tensor:
        """ε̂ − ε."""
        return student.eps - student.eps_of(goal)
