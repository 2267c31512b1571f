"""Weightings w(λ_t) of a squared error, by the signal-to-noise ratio at the jump's start, or by the jump."""

from __future__ import annotations

from typing import Literal

import torch

from distillkit.noise import NoisePath

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
    return (path.alpha(s) - path.sigma(s) / path.sigma(t) * path.alpha(t)).square()
