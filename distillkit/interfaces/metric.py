"""How good the samples are."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from distillkit.component import Component
from distillkit.interfaces.features import Features, FeatureStatistics


class Metric(Component):
    """One number for a set of samples."""

    needs_reference: ClassVar[bool]
    """Whether samples are compared with real images."""
    needs_logits: ClassVar[bool] = False
    """Whether the feature network must give class logits."""
    higher_is_better: ClassVar[bool] = False

    @abstractmethod
    def label(self, features: Features) -> str:
        """What the score is called in these features: "fid" in Inception's only, "fd-fashion" in Fashion-MNIST's."""

    @abstractmethod
    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """The score. Must not touch the global random state."""
