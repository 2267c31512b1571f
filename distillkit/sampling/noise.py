"""The noise that samples start from: a picture's own, whatever batch or process it is drawn in."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillkit.noise.seeds import generator


def noise_for(seed: int, indices: Sequence[int], shape: tuple[int, int, int], step: int = 0) -> torch.Tensor:
    """N(0, I) for the pictures `indices` of the series `seed`: [len(indices), C, H, W], float32, on the CPU.

    Picture i depends on (seed, i, step) and `shape` (C, H, W) alone, so every model, batch size and rank sees the same.
    Step 0 is where a sampler starts; one that adds noise before a later step counts on from there.
    """
    purpose = ("picture", step) if step else ("picture",)
    return torch.stack([torch.randn(shape, generator=generator(seed, i, *purpose)) for i in indices])
