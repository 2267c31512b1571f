"""Built-in metrics, and features that need no data set of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Features, Metric


@hookimpl
def distillkit_features() -> list[type[Features]]:
    from distillkit_metrics.inception import Inception
    from distillkit_metrics.pixels import Pixels

    return [Inception, Pixels]


@hookimpl
def distillkit_metrics() -> list[type[Metric]]:
    from distillkit_metrics.metrics import FrechetDistance, InceptionScore, KernelDistance

    return [FrechetDistance, KernelDistance, InceptionScore]
