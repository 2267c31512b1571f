"""Opens an MLflow store quietly: no telemetry, no log lines of its migrations."""

from __future__ import annotations

import logging
import os
import sqlite3
import warnings
from contextlib import closing

import mlflow.entities
import mlflow.exceptions
import sqlalchemy

from distillkit_mlflow.uri import artifact_root, scheme, sqlite_file

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
"""What MLflow reads when it is imported. A user's own settings win."""

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Has MLflow's UI open the experiment among those of model training, with its table of runs and their comparison."""

RECORD = "distillkit.record"
"""The tag that holds the id of a run's record, by which the run is found where an answer was lost."""


def load_driver(uri: str) -> None:
    """What a database takes must be installed.

    Raises:
        Exception: SQLAlchemy's, or that of the import.
    """
    if scheme(uri) in ("postgresql", "mysql", "mssql"):
        sqlalchemy.make_url(uri).get_dialect().import_dbapi()


def open_store(uri: str) -> mlflow.MlflowClient:
    """A client of the store. Makes and migrates a new SQLite store, which takes some seconds."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # The sender decides when to try again. MLflow would also repeat what makes a run, and make two.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    file = sqlite_file(uri)
    if file is not None and file.is_file():
        # MLflow would try for many minutes.
        with closing(sqlite3.connect(file, timeout=3)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    with warnings.catch_warnings():
        # MLflow's own use of SQLAlchemy; nobody here can do anything about it.
        warnings.simplefilter("ignore", DeprecationWarning)

        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return mlflow.MlflowClient(tracking_uri=uri)


def experiment_id(client: mlflow.MlflowClient, name: str, uri: str) -> str:
    """The id of the experiment called `name`, which is made if there is none."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=artifact_root(uri), tags=KIND))
        except mlflow.exceptions.MlflowException:
            # Another run may have made it in between.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def get_run(client: mlflow.MlflowClient, run_id: str) -> mlflow.entities.Run | None:
    """A run; None if the store has it not, or it was deleted."""
    try:
        run = client.get_run(run_id)
    except mlflow.exceptions.MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def find_run(client: mlflow.MlflowClient, experiment: str, record: str) -> mlflow.entities.Run | None:
    """The run of a record, by the record's id."""
    found = client.search_runs([experiment], f"tags.`{RECORD}` = '{record}'", max_results=1)
    return found[0] if found else None
