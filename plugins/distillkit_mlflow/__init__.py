"""Trackers: MLflow, and none."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import NoTracker, Tracker
from distillkit_mlflow.tracker import MlflowTracker


@hookimpl
def distillkit_trackers() -> list[type[Tracker]]:
    """`mlflow` and `none`."""

    return [MlflowTracker, NoTracker]
