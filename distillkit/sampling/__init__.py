"""Turns noise into samples."""

from distillkit.sampling.consistency import boundary_scalings, consistency_of, sample_consistency
from distillkit.sampling.ddim import sample, walk
from distillkit.sampling.noise import noise_for

__all__ = ["boundary_scalings", "consistency_of", "noise_for", "sample", "sample_consistency", "walk"]
