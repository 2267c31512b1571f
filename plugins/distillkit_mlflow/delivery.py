"""Brings a run's record into an MLflow store, in order, and remembers how far it came."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow

from distillkit_mlflow import store
from distillkit_mlflow.memo import load_memo
from distillkit_mlflow.mlflow_run import MlflowRun
from distillkit_mlflow.record import FILE, read

EVENTS = 200
"""Events of metrics that go together: each has about five points, and MLflow takes a thousand at once."""


class Delivery:
    """A run's record and, if it is a chain's, those of its phases, on their way to one store.

    Args:
        uri: the store.
        folder: the run's.
        tell: told what the store will never take.
    """

    def __init__(self, uri: str, folder: Path, tell: Callable[[str], None]) -> None:
        self._uri = uri
        self._folder = folder
        self._tell = tell
        self._client: mlflow.MlflowClient | None = None
        self._parcels: dict[Path, Parcel] = {}
        self.counts: Counter[str] = Counter()

    def send(self) -> None:
        """Send what the records have by now and the store has not.

        Raises:
            Exception: what MLflow raises; what was sent until then is remembered.
        """
        if self._client is None:
            self._client = store.open_store(self._uri)
        parent = None
        for folder in (self._folder, *phases(self._folder)):
            if folder not in self._parcels:
                self._parcels[folder] = Parcel(self._client, self._uri, folder, self.counts, self._tell)
            run_id = self._parcels[folder].send(parent)
            parent = parent or run_id

    def close(self) -> None:
        """Nothing more will come: where a record does not say how its run ended, it was killed."""
        for parcel in self._parcels.values():
            parcel.close()


class Parcel:
    """One record.

    Args:
        client: of the store.
        uri: the store.
        folder: the run's.
        counts: what is sent is added up here.
        tell: told what the store will never take.
    """

    def __init__(
        self, client: mlflow.MlflowClient, uri: str, folder: Path, counts: Counter[str], tell: Callable[[str], None]
    ) -> None:
        self._client = client
        self._uri = uri
        self._folder = folder
        self._counts = counts
        self._tell = tell
        self._events: list[dict[str, Any]] = []
        self._position = 0
        self._run: MlflowRun | None = None

    def send(self, parent: str | None) -> str | None:
        """Send what there is; the MLflow run's id, if it has one by now.

        Args:
            parent: the MLflow run that this one belongs below.
        """
        found, self._position = read(self._folder / FILE, self._position)
        self._events += found
        if not self._events:
            return None
        if self._run is None:
            self._run = self._open(parent)
        while batch := self._next():
            self._write(self._run, batch)
            self._memo.sent += len(batch)
            self._memo.save()
        return self._run.id

    def close(self) -> None:
        """The run is over."""
        if self._run is not None and not self._is_finished:
            self._run.end("killed", self._events[-1]["time"])

    @property
    def _is_finished(self) -> bool:
        return bool(self._events[-1]["event"] == "finish")

    def _open(self, parent: str | None) -> MlflowRun:
        """Find the record's run in the store, or make it."""
        start = self._events[0]
        memo = self._memo = load_memo(self._folder, self._uri, start["store"])
        goes_on = memo.run_id is not None and store.run_exists(self._client, memo.run_id)
        if not goes_on:
            experiment = store.experiment_id(self._client, start["experiment"], self._uri)
            # The store may have it, where its answer or the memo was lost.
            memo.run_id = store.find_run(self._client, experiment, start["id"]) or self._make(experiment, parent)
            memo.sent = 0
            memo.save()
        assert memo.run_id is not None
        run = MlflowRun(self._client, memo.run_id, start["id"], self._counts, self._tell)
        if goes_on and not self._is_finished:
            run.begin()
        return run

    def _make(self, experiment: str, parent: str | None) -> str:
        start = self._events[0]
        tags = {**start["tags"], store.RECORD: start["id"]}
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        run = self._client.create_run(experiment, start_time=start["time"], tags=tags, run_name=start["name"])
        self._counts["runs"] += 1
        return str(run.info.run_id)

    def _next(self) -> list[dict[str, Any]]:
        """What is sent next: several events of metrics, or one of any other kind."""
        first = last = self._memo.sent
        while last < min(len(self._events), first + EVENTS) and self._events[last]["event"] == "metrics":
            last += 1
        return self._events[first : max(last, first + 1)]

    def _write(self, run: MlflowRun, batch: list[dict[str, Any]]) -> None:
        event = batch[0]
        match event["event"]:
            case "start":
                run.log_params(event["params"])
            case "resume":
                run.begin()
            case "metrics":
                run.log_points((each["values"], each["update"], each["time"]) for each in batch)
            case "scores":
                run.log_text(json.dumps(event["rows"], indent=2), "scores.json")
            case "image":
                run.log_image(self._folder / event["file"], event["key"], event["step"], event["time"])
            case "file":
                run.log_file(self._folder / event["path"])
            case "finish":
                run.end(event["status"], event["time"])


def phases(folder: Path) -> list[Path]:
    """The folders of a chain's phases that are recorded below it, in order."""
    records = sorted(folder.glob(f"phases/*/{FILE}"), key=lambda path: int(path.parent.name))
    return [path.parent for path in records if (events := read(path)[0]) and events[0]["nested"]]
