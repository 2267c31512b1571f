"""Sends a run's parameters, curves and status to MLflow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import mlflow.entities
import mlflow.exceptions

from distillkit_mlflow import store
from distillkit_mlflow.cursor import Runs
from distillkit_mlflow.folder import RunReader, cut, flatten
from distillkit_mlflow.record import EXPERIMENT, Record, outcome, read_record
from distillkit_mlflow.uri import redact_uri

T = TypeVar("T")

BATCH = {"metrics": 1000, "params": 100, "tags": 100}
"""The most entries that MLflow accepts at once."""


class Run:
    """Sends one run or one phase. Sending is idempotent: the last point of each curve is read from the store.

    Args:
        client: a client of the store.
        uri: the store.
        folder: the run's folder, which has a record.
        parent: the id of the MLflow run in which this one is nested.
        context: MLflow's own tags for a new run, such as its user and its program.
        counts: counts what is sent.
        tell: called with a message about each entry that the store refuses.
        note: called with a message about what else the user should know, where nothing is missing.
    """

    def __init__(
        self,
        client: mlflow.MlflowClient,
        uri: str,
        folder: Path,
        parent: str | None,
        context: Mapping[str, str],
        counts: Counter[str],
        tell: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._client = client
        self._uri = uri
        self._folder = folder
        self._context = context
        self._counts = counts
        self._tell = tell
        self._note = note
        self._record = present_record(folder)
        self._reader = RunReader(folder, self._record.started)
        runs, name = Runs(folder), redact_uri(uri)
        known = runs.read().get(name)
        run = (store.get_run(client, known) if known is not None else None) or self._find(parent)
        self.id = str(run.info.run_id)
        runs.write(name, self.id)
        self._state = (run.info.status, run.info.end_time)
        # The store returns each curve's point with the largest step.
        self._last = {point.key: point.step for point in run.data.to_proto().metrics}
        # Parameters in the store cannot be changed.
        params = {key: value for key, value in flatten(self._reader.config).items() if key not in run.data.params}
        self._params = [mlflow.entities.Param(key, value) for key, value in params.items()]
        # One that the store refuses must not stop the run from being made.
        tags = {key: cut(value) for key, value in self._record.tags.items() if run.data.tags.get(key) != cut(value)}
        self._more_tags = [mlflow.entities.RunTag(key, value) for key, value in tags.items() if key != store.RECORD]
        self._over = False

    def _find(self, parent: str | None) -> mlflow.entities.Run:
        """The run of MLFLOW_RUN_ID, or the one with the record's id, or a new one."""
        record = self._record
        here = record.store == redact_uri(self._uri)
        if here and record.run_id is not None and parent is None and (run := self._adopt(record.run_id)):
            return run
        if here and record.experiment_id is not None:
            experiment = store.check_experiment(self._client, record.experiment_id)
        else:
            experiment = store.experiment_id(self._client, record.experiment or EXPERIMENT, self._uri)
        # The store may have the run already, if its response or the cursor was lost.
        return store.find_run(self._client, experiment, record.id) or self._make(experiment, parent)

    def _adopt(self, run_id: str) -> mlflow.entities.Run | None:
        """The run with this id, tagged with the record's id; None if it does not exist or has another record."""
        run = store.get_run(self._client, run_id)
        if run is None:
            self._note(f"MLFLOW_RUN_ID: the store has no run {run_id}, so a new one is created")
        elif run.data.tags.get(store.RECORD, self._record.id) != self._record.id:
            self._note(f"MLFLOW_RUN_ID: {run_id} belongs to another run folder, so a new one is created")
            return None
        else:
            tags = [mlflow.entities.RunTag(key, value) for key, value in self._tags().items()]
            self._client.log_batch(run_id, tags=tags, synchronous=True)
        return run

    def _make(self, experiment: str, parent: str | None) -> mlflow.entities.Run:
        tags = {**self._context, **self._tags(), **({"mlflow.parentRunId": parent} if parent is not None else {})}
        name = self._reader.config["run"]["name"]
        self._counts["run"] += 1
        return self._client.create_run(experiment, start_time=self._record.started, tags=tags, run_name=name)

    def _tags(self) -> dict[str, str]:
        tags = {store.RECORD: self._record.id, "method": str(self._reader.config["run"].get("method", "custom"))}
        return tags if self._record.plan is None else tags | {"plan": cut(json.dumps(self._record.plan))}

    def send(self, over: bool) -> None:
        """Send what is new: parameters, points and status, even if one of these fails.

        Args:
            over: whether the run has ended.

        Raises:
            Exception: of MLflow. This object must not be used any more: the store may have more than it confirmed.
        """
        if self._over:
            return
        self._record = present_record(self._folder)
        status = outcome(self._folder, self._record, over)
        ended = None if status is None else self._record.ended
        attempt(
            self._send_params,
            lambda: self._send_points(status is not None, status == "finished"),
            lambda: self._set_status("RUNNING" if status is None else status.upper(), status is not None, ended),
        )
        self._over = status is not None

    def _set_status(self, status: str, over: bool, ended: int | None) -> None:
        state = (status, (ended or self._reader.newest) if over else None)
        if state != self._state:
            if over:
                self._client.set_terminated(self.id, *state)
            else:
                self._client.update_run(self.id, status=status)
            self._state = state

    def _send_params(self) -> None:
        self._log("params", self._params)
        self._params = []
        self._log("tags", self._more_tags)
        self._more_tags = []

    def _send_points(self, over: bool, finished: bool) -> None:
        """Send the points after the last one of each curve in the store."""
        new = (point for point in self._reader.points(over, finished) if point.step > self._last.get(point.key, -1))
        for batch in _batches(new, BATCH["metrics"]):
            entries = [mlflow.entities.Metric(point.key, point.value, point.time, point.step) for point in batch]
            self._log("metrics", entries)
            for point in batch:
                self._last[point.key] = max(point.step, self._last.get(point.key, -1))
            self._counts["point"] += len(batch)

    def _log(self, kind: Literal["metrics", "params", "tags"], entries: list[Any]) -> None:
        """Send entries in batches. If the store refuses an entry, only that entry is left out."""
        for batch in _batches(entries, BATCH[kind]):
            try:
                self._client.log_batch(self.id, **{kind: batch}, synchronous=True)
            except mlflow.exceptions.MlflowException as error:
                # A deleted run refuses everything.
                if error.error_code != "INVALID_PARAMETER_VALUE" or store.get_run(self._client, self.id) is None:
                    raise
                if len(batch) == 1:
                    self._tell(f"MLflow refuses {batch[0].key}: {error.message}")
                for entry in batch if len(batch) > 1 else []:
                    self._log(kind, [entry])


def present_record(folder: Path) -> Record:
    """Read the record of a run that has one.

    Raises:
        FileNotFoundError: the file was deleted.
    """
    record = read_record(folder)
    if record is None:
        raise FileNotFoundError(f"{folder}/tracking.json is gone")
    return record


def attempt(*acts: Callable[[], None]) -> None:
    """Call all functions, even if some of them fail.

    Raises:
        Exception: of the first function that failed.
    """
    errors: list[Exception] = []
    for act in acts:
        try:
            act()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def _batches(entries: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(entries)
    while batch := list(islice(rest, size)):
        yield batch
