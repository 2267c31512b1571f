"""Trackers: MLflow, and none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Tracker


@hookimpl
def distillkit_trackers() -> list[type[Tracker]]:
    """`mlflow` and `none`."""
    # Here, so that the process that sends runs does not import torch.
    from distillkit.interfaces import NoTracker
    from distillkit_mlflow.tracker import MlflowTracker

    return [MlflowTracker, NoTracker]
