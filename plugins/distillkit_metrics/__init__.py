"""Built-in metrics, and features that need no data set of their own."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Features, Metric
from distillkit_metrics.features import Inception, Pixels
from distillkit_metrics.manifolds import Precision, Recall
from distillkit_metrics.metrics import FrechetDistance, InceptionScore, KernelDistance, Spread


@hookimpl
def distillkit_features() -> list[type[Features]]:
    return [Inception, Pixels]


@hookimpl
def distillkit_metrics() -> list[type[Metric]]:
    return [FrechetDistance, KernelDistance, InceptionScore, Precision, Recall, Spread]
