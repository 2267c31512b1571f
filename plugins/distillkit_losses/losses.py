"""Errors of x̂, v̂, û and ε̂ with a weighting w(λ_t), by the signal-to-noise ratio at the jump's start, or by the jump."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field

from distillkit.errors import DistillkitError
from distillkit.interfaces import JumpBatch, Loss
from distillkit.noise import NoisePath, Prediction

Weighting = Literal["none", "truncated-snr", "snr-plus-one", "snr", "log-truncated", "min-snr", "landing"]


def weight(weighting: Weighting, alpha: torch.Tensor, sigma: torch.Tensor, gamma: float) -> torch.Tensor:
    """w for each sample, of α and σ of any one shape; for all weightings but "landing".

    On an x̂-error: "truncated-snr" max(SNR, 1), the larger of the errors of x̂ and ε̂ (Salimans & Ho 2022, equation 9);
    "snr-plus-one" SNR + 1, which makes it the v-error of a variance-preserving path (equation 10); "snr" the ε-error;
    "log-truncated" max(log SNR, 1) (the authors' DSD code); "min-snr" min(SNR, γ) (Hang et al. 2023); "none" 1.
    """
    snr = (alpha / sigma).square()
    if weighting == "truncated-snr":
        return snr.clamp(min=1)
    if weighting == "snr-plus-one":
        return snr + 1
    if weighting == "snr":
        return snr
    if weighting == "log-truncated":
        return snr.log().clamp(min=1)
    if weighting == "min-snr":
        return snr.clamp(max=gamma)
    return snr.new_ones(snr.shape)


def landing(path: NoisePath, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """w = A² with A = α_s − (σ_s/σ_t) α_t, for jumps from t to s [B]: [B, 1, 1, 1].

    A DDIM step from t lands on (σ_s/σ_t) z_t + A x̂, so that A times the error of x̂ is the error of the landing.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(s)
    return (alpha_s - sigma_s / sigma_t * alpha_t).square()


class WeightedLoss(Loss):
    """A loss with a weighting w(λ_t)."""

    class Options(Loss.Options):
        """
        Attributes:
            weighting: w(λ_t), see `distillkit_losses.losses`.
            gamma: γ of "min-snr".
        """

        weighting: Weighting = "none"
        gamma: float = Field(5.0, gt=0)

    options: Options

    def setup(self, path: NoisePath) -> None:
        """Remember the path, which knows the noise where a jump lands."""
        self._path = path

    def weight(self, jumps: JumpBatch, student: Prediction) -> torch.Tensor:
        """w for a squared error, [B]."""
        if self.options.weighting == "landing":
            return landing(self._path, jumps.times[0], jumps.times[-1]).flatten()
        return weight(self.options.weighting, student.alpha, student.sigma, self.options.gamma).flatten()


ADAPTIVE_C = 1e-3
"""c of adaptive weights, MeanFlow's; here the error is a mean over a sample's elements."""


class SquaredError(WeightedLoss):
    """w(λ_t) times the mean squared error between the student and what it is compared with."""

    class Options(WeightedLoss.Options):
        """
        Attributes:
            adaptive: p of the weight 1/(e + 0.001)^p of a sample with the error e, which the gradient takes as constant
                (Geng et al. 2025, MeanFlow). With 1 all samples count alike, whatever their errors; 0: none.
        """

        adaptive: float = Field(0.0, ge=0, le=1)

    options: Options

    def per_sample(self, jumps: JumpBatch, student: Prediction, goal: torch.Tensor) -> torch.Tensor:
        """The weighted error, [B]."""
        error = self.error(student, goal).square().flatten(1).mean(1)
        if self.options.adaptive:
            error = error / (error.detach() + ADAPTIVE_C).pow(self.options.adaptive)
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


class XL1(WeightedLoss):
    """√w(λ_t) times the mean of |x̂ − x̃| (SFD: Zhou et al. 2024).

    Weightings are of squared errors, and their roots of absolute ones: "landing" makes it the landing's absolute
    error, "snr" that of ε̂.
    """

    name = "x-l1"

    def per_sample(self, jumps: JumpBatch, student: Prediction, goal: torch.Tensor) -> torch.Tensor:
        """The weighted error, [B]."""
        error = (student.x0 - goal).abs().flatten(1).mean(1)
        return error * self.weight(jumps, student).sqrt()


C_PER_ROOT_DIMENSION = 0.00054
"""iCT's c for each √(C·H·W)."""


class XHuber(WeightedLoss):
    """√w(λ_t) times √(‖x̂ − x̃‖² + c²) − c, of the norm over all of a sample's elements (Song & Dhariwal 2023, iCT).

    A square where the error is well below c and the norm itself above, so that a few bad samples do not drown the
    others. Weightings are of squared errors, and their roots of this one.

    LCM's Huber loss is another one: the mean over the elements of √(d² + c²) − c with c = 0.001, which is nearly |d|.
    `x-l1` is nearest to it.
    """

    name = "x-huber"

    class Options(WeightedLoss.Options):
        """
        Attributes:
            c: where the square becomes a norm; left out, 0.00054·√(C·H·W).
        """

        c: float | None = Field(None, gt=0)

    options: Options

    def per_sample(self, jumps: JumpBatch, student: Prediction, goal: torch.Tensor) -> torch.Tensor:
        """The weighted distance, [B]."""
        difference = (student.x0 - goal).flatten(1)
        c = self.options.c or C_PER_ROOT_DIMENSION * difference.shape[1] ** 0.5
        squared = difference.square().sum(1)
        # The same as √(squared + c²) − c, without the cancellation.
        distance = squared / ((squared + c**2).sqrt() + c)
        return distance * self.weight(jumps, student).sqrt()
