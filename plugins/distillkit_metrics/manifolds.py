"""Improved precision and recall (Kynkäänniemi et al. 2019), in float64 on the CPU.

Shapes: n images of one set, m of the other, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from pydantic import Field

from distillkit.errors import DistillkitError
from distillkit.interfaces import Features, FeatureStatistics, Metric
from distillkit_metrics.metrics import features_of_both

ROWS = 1000
"""Images whose distances to all others are in memory at a time: 80 MB for 10 000 others."""


def coverage(features: torch.Tensor, manifold: torch.Tensor, k: int) -> float:
    """The share of features [n, D] that lie in the manifold of others [m, D], m > k.

    The manifold is a union of balls, one around each of its m features, that reaches to the k-th nearest of the rest.
    """
    others = manifold.double().cpu()
    centre = others.mean(0)
    others = others - centre  # distances lose fewer digits near the origin
    # The nearest is the feature itself.
    radii = [torch.cdist(part, others).topk(k + 1, largest=False).values[:, -1] for part in torch.split(others, ROWS)]
    radius = torch.cat(radii)
    inside = 0
    for part in torch.split(features, ROWS):
        distances = torch.cdist(part.double().cpu() - centre, others)
        inside += int((distances <= radius).any(1).sum())
    return inside / len(features)


class ManifoldMetric(Metric):
    """How far one set of images covers another."""

    needs_reference = True
    higher_is_better: ClassVar[bool] = True

    class Options(Metric.Options):
        """
        Attributes:
            k: each ball reaches to the k-th nearest neighbour.
        """

        k: int = Field(3, ge=1)

    options: Options

    def label(self, features: Features) -> str:
        """Its name with the features' suffix."""
        return f"{self.name}{features.metric_suffix}"

    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """A share, 0 to 1.

        Raises:
            DistillkitError: the reference keeps no features, or a set has too few images.
        """
        features, real = features_of_both(self, samples, reference)
        if (fewest := min(len(features), len(real))) <= self.options.k:
            raise DistillkitError(
                f"metric.k: {self.options.k} neighbours of an image need {self.options.k + 1} images, and there are "
                f"{fewest}; take more (evaluation.samples), or a smaller k"
            )
        return self.share(features, real)

    @abstractmethod
    def share(self, features: torch.Tensor, real: torch.Tensor) -> float:
        """The metric's value for samples [n, D] and real images [m, D]."""


class Precision(ManifoldMetric):
    """The share of samples that lie among real images: how good they look (Kynkäänniemi et al. 2019)."""

    name = "precision"

    def share(self, features: torch.Tensor, real: torch.Tensor) -> float:
        """Of the samples."""
        return coverage(features, real, self.options.k)


class Recall(ManifoldMetric):
    """The share of real images that lie among samples: how varied these are (Kynkäänniemi et al. 2019).

    Compare values of equal numbers of samples and of real images only.
    """

    name = "recall"

    def share(self, features: torch.Tensor, real: torch.Tensor) -> float:
        """Of the real images."""
        return coverage(real, features, self.options.k)
