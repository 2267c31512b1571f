"""Weightings w(λ_t) of a squared error, by the signal-to-noise ratio at the jump's start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Weighting = Literal["none", "truncated-snr", "snr-plus-one", "snr", "log-truncated", "min-snr"]


def weight(weighting: Weighting, alpha: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """w for each sample, of α and σ of any one shape.

    On an x̂-error: "truncated-snr" max(SNR, 1) (Salimans & Ho 2022, equation 9); "snr-plus-one" SNR + 1, which makes
    it the v-error (equation 10); "snr" the ε-error; "log-truncated" max(log SNR, 1) (the authors' DSD code);
    "min-snr" min(SNR, γ) (Hang et al. 2023); "none" 1.
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
