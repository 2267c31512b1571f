"""The pictures themselves as features: for tiny ones, such as digits."""

from __future__ import annotations

import hashlib

import torch

from distillkit.interfaces import Features


class Pixels(Features):
    """Every pixel is a feature. There is no network and there are no classes."""

    name = "pixels"
    metric_suffix = "-pixels"

    def setup(self, device: torch.device) -> None:
        """There is nothing to load."""

    def extract(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """uint8 images [B, C, H, W] -> [B, C·H·W] in [−1, 1]."""
        return images.flatten(1).float() / 127.5 - 1, None

    @property
    def hash(self) -> str:
        """Of the formula, as there are no weights."""
        return hashlib.sha256(b"x / 127.5 - 1").hexdigest()[:8]

    @property
    def has_logits(self) -> bool:
        """There are none."""
        return False
