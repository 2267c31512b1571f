"""The features in which samples of Fashion-MNIST are scored."""

from __future__ import annotations

import hashlib

import torch

from distillkit.interfaces import Features, FeatureStatistics


class Fashion(Features):
    """128 features of a small classifier of Fashion-MNIST, with the statistics of its 60 000 training images.

    Scores in them are called fd-fashion, kd-fashion and is-fashion: they are no FID, KID or Inception Score.
    """

    name = "fashion"
    metric_suffix = "-fashion"

    def setup(self, device: torch.device) -> None:
        """Load the network that comes with the package."""
        from distillkit_fashion.classifier import PREPROCESSING, WEIGHTS, load_classifier

        self._network = load_classifier().to(device)
        self._hash = hashlib.sha256(WEIGHTS.read_bytes() + PREPROCESSING.encode()).hexdigest()[:8]

    def extract(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """uint8 images [B, 1 or 3, H, W], 28 or 32 px -> features [B, 128] and class logits [B, 10].

        Raises:
            DistillkitError: the images have another size.
        """
        from distillkit_fashion.classifier import prepare

        with torch.no_grad():
            features, logits = self._network(prepare(images))
        return features, logits

    @property
    def hash(self) -> str:
        """Of the weights file and the preprocessing; known after `setup`."""
        return self._hash

    def bundled_reference(self) -> FeatureStatistics:
        """The 60 000 training images, padded to 32×32; the features of 2000 of them are kept."""
        from distillkit_fashion.classifier import load_reference

        return load_reference()

    @property
    def has_bundled_reference(self) -> bool:
        """It comes with the package."""
        return True
