"""Opens an MLflow store quietly: no telemetry, no log lines of its migrations."""

from __future__ import annotations

import logging
import os
import warnings

import mlflow.entities
import mlflow.exceptions
import sqlalchemy

from distillkit.errors import DistillkitError
from distillkit_mlflow import sqlite
from distillkit_mlflow.uri import artifact_root, scheme, sqlite_file

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""Settings that MLflow reads when it is imported. They do not override the user's."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Makes MLflow's UI show the experiment as one of model training, with a table of runs that can be compared."""

RECORD = "distillkit.record"
"""The tag with the id of a run's record, by which the run is identified if a response was lost."""


def load_driver(uri: str) -> None:
    """Check that the driver of a database is installed.

    Raises:
        Exception: of SQLAlchemy or of the import.
    """
    if scheme(uri) in ("postgresql", "mysql", "mssql"):
        sqlalchemy.make_url(uri).get_dialect().import_dbapi()


def open_store(uri: str) -> mlflow.MlflowClient:
    """Make a client of the store. A new SQLite store is created first, which takes some seconds.

    Raises:
        DistillkitError: MLflow cannot use this SQLite store.
        Exception: of MLflow, for example because the store does not answer or is locked.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # The shipper decides when to try again. MLflow would also repeat the request that creates a run, and create two.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Caused by MLflow's own use of SQLAlchemy.
        warnings.simplefilter("ignore", DeprecationWarning)
        if (file := sqlite_file(uri)) is not None:
            sqlite.make(file, lambda path: mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}"))
            sqlite.check(file)
        return mlflow.MlflowClient(tracking_uri=uri)


def experiment_id(client: mlflow.MlflowClient, name: str, uri: str) -> str:
    """The id of the experiment called `name`, which is created if there is none.

    Raises:
        DistillkitError: the experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root(uri), tags=KIND))
        except mlflow.exceptions.MlflowException:
            # Another run may have created it meanwhile.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    return _active(experiment)


def check_experiment(client: mlflow.MlflowClient, number: str) -> str:
    """Check that an experiment exists, and return its id.

    Raises:
        DistillkitError: there is none, or it was deleted.
    """
    try:
        return _active(client.get_experiment(number))
    except mlflow.exceptions.MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise DistillkitError(
                f"the store has no experiment with the id {number}, which MLFLOW_EXPERIMENT_ID had: go "
                "on with --resume and the name of another as tracker.experiment (with --allow-change tracker), or send "
                "the run to another store with distillkit track --uri"
            ) from None
        raise


def _active(experiment: mlflow.entities.Experiment) -> str:
    if experiment.lifecycle_stage != "active":
        raise DistillkitError(
            f"the experiment '{experiment.name}' was deleted in the store: restore it with "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def get_run(client: mlflow.MlflowClient, run_id: str) -> mlflow.entities.Run | None:
    """A run; None if it does not exist or was deleted."""
    try:
        run = client.get_run(run_id)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def find_run(client: mlflow.MlflowClient, experiment: str, record: str) -> mlflow.entities.Run | None:
    """The run of a record, by the record's id; None if there is none."""
    runs = client.search_runs([experiment], f"tags.`{RECORD}` = '{record}'", max_results=1)
    return runs[0] if runs else None
