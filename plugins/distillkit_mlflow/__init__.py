"""Trackers: MLflow, and none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import hookimpl

if TYPE_CHECKING:
    from distillkit.interfaces import Tracker


@hookimpl
def distillkit_trackers() -> list[type[Tracker]]:
    """`mlflow` and `none`."""
    from distillkit_mlflow.none import NoTracker
    from distillkit_mlflow.tracker import MlflowTracker

    return [MlflowTracker, NoTracker]
