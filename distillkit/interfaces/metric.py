"""Scores of samples: the features in which they are compared, and the metrics."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from distillkit.component import Component


@dataclass(frozen=True)
class FeatureStatistics:
    """What metrics use of a set of images, real or generated.

    Attributes:
        mean: the features' mean, [D] (float64).
        covariance: their unbiased covariance, [D, D] (float64).
        count: the number of images.
        features: the features, [n, D] with n ≤ count (a subset of the images, for KID); None if not kept.
        logits: class logits, [count, K]; None if the network has none, or for a reference.
        hash: identifies the images, as eight hexadecimal digits. Scores with different references do not compare.
        conditions: the number of each image's class or prompt, [count] (int64), 0 for all images of an unconditional
            network; None for a reference.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    count: int
    features: torch.Tensor | None
    logits: torch.Tensor | None
    hash: str
    conditions: torch.Tensor | None = None

    @classmethod
    def of(cls, features: torch.Tensor, logits: torch.Tensor | None, hash: str) -> FeatureStatistics:
        """The statistics of n ≥ 2 images with features [n, D] and logits [n, K] (or None). Keeps the features."""
        mean = features.mean(0, dtype=torch.float64)
        covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=features.device)
        # In parts, because a float64 copy of all features of a large reference would take gigabytes.
        for part in torch.split(features, 4096):
            centred = part.double() - mean
            covariance += centred.T @ centred
        return cls(mean, covariance / (len(features) - 1), len(features), features, logits, hash)


class Features(Component):
    """Turns images into feature vectors, which all metrics share."""

    metric_suffix: ClassVar[str]
    """The suffix of a metric's name in these features: "" for the Inception network of FID, else such as "-fashion"."""

    @abstractmethod
    def setup(self, device: torch.device) -> None:
        """Load the network. Called once.

        Raises:
            DistillkitError: the network's weights do not exist.
        """

    @abstractmethod
    def extract(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """uint8 images [B, C, H, W] -> features [B, D] and class logits [B, K] (None if it has none)."""

    @property
    @abstractmethod
    def hash(self) -> str:
        """Eight hexadecimal digits that identify the network's weights and its preprocessing."""

    def bundled_reference(self) -> FeatureStatistics | None:
        """The reference statistics that come with the network, if any."""
        return None

    @property
    def has_bundled_reference(self) -> bool:
        """Whether `bundled_reference` returns statistics; known before anything is loaded."""
        return False

    @property
    def has_logits(self) -> bool:
        """Whether `extract` returns class logits; known before anything is loaded."""
        return True


class Metric(Component):
    """One number for a set of samples."""

    needs_reference: ClassVar[bool]
    """Whether the metric compares samples with real images."""
    needs_logits: ClassVar[bool] = False
    """Whether the feature network must return class logits."""
    needs_conditions: ClassVar[bool] = False
    """Whether the metric compares samples of one condition: there must be two of one at the least."""
    higher_is_better: ClassVar[bool] = False

    @abstractmethod
    def label(self, features: Features) -> str:
        """The name of the score in these features, such as "fid" in Inception's and "fd-fashion" in Fashion-MNIST's."""

    @abstractmethod
    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """Compute the score. Must not change the global random state."""
