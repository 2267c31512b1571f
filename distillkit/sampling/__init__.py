"""Turns noise into samples."""

from distillkit.sampling.ddim import sample
from distillkit.sampling.noise import noise_for

__all__ = ["noise_for", "sample"]
