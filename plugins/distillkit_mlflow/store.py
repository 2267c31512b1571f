"""Opens an MLflow store quietly: no telemetry, no log lines of its migrations."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING

from distillkit_mlflow.uri import artifact_root

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    # A server that is away must not hold up the training for minutes at each point of a curve.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""What MLflow reads when it is imported. A user's own settings win."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's UI open the experiment among those of model training, with its table of runs and their comparison."""


def open_store(uri: str) -> MlflowClient:
    """A client of the store. Makes and migrates a new SQLite store, which takes some seconds."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        # MLflow's own use of SQLAlchemy; nobody here can do anything about it.
        warnings.simplefilter("ignore", DeprecationWarning)
        from mlflow import MlflowClient

        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=uri)


def experiment_id(client: MlflowClient, name: str, uri: str) -> str:
    """The id of the experiment called `name`, which is made if there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root(uri), tags=KIND))
        except MlflowException:
            # Another run may have made it in between.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def run_exists(client: MlflowClient, run_id: str) -> bool:
    """Whether the store has the run, and it was not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def logged_points(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """(metric, update) of every point that a run has."""
    keys = client.get_run(run_id).data.metrics
    return {(key, point.step) for key in keys for point in client.get_metric_history(run_id, key)}


def logged_images(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """(key, step) of every picture that a run has, read from MLflow's file names (`key+step+4+timestamp+…`)."""
    names = [file.path.rpartition("/")[2].split("+") for file in client.list_artifacts(run_id, "images")]
    return {(name[0].replace("~", "/"), int(name[2])) for name in names}
