"""Trackers: MLflow, and none."""

from __future__ import annotations

from distillkit import hookimpl
from distillkit.interfaces import Tracker
from distillkit_mlflow.none import NoTracker
from distillkit_mlflow.tracker import MlflowTracker


@hookimpl
def distillkit_trackers() -> list[type[Tracker]]:
    """`mlflow` and `none`."""

    return [MlflowTracker, NoTracker]
