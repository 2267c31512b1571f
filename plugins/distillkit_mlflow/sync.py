"""Brings MLflow up to what a run's folder says: the same during a run, after a failure and for `distillkit track`."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
from filelock import BaseFileLock, FileLock

from distillkit_mlflow import store
from distillkit_mlflow.folder import FILES, Record, RunReader, cut, phases, read_record, write_json
from distillkit_mlflow.mlflow_run import MlflowRun
from distillkit_mlflow.uri import redact_uri


def lock(folder: Path) -> BaseFileLock:
    """One process at a time sends a run."""

    return FileLock(folder / ".tracking.lock")


class Sync:
    """A run and, if it is a chain, its phases, on their way to one store.

    Args:
        uri: the store.
        folder: the run's; has a record.
        tell: called with what the store will never take.
    """

    def __init__(self, uri: str, folder: Path, tell: Callable[[str], None]) -> None:
        self._uri = uri
        self._folder = folder
        self._tell = tell
        self._client: mlflow.MlflowClient | None = None
        self._runs: dict[Path, _RunSync] = {}
        self.counts: Counter[str] = Counter()

    def send(self, over: bool) -> None:
        """Send what the folder has by now and the store has not.

        Args:
            over: nothing will be added to the folder. A run that doesn't say how it ended was killed then.

        Raises:
            Exception: what MLflow raises. The next call asks the store what has arrived, and goes on from there.
        """
        try:
            if self._client is None:
                self._client = store.open_store(self._uri)
            parent = None
            for folder in (self._folder, *phases(self._folder)):
                if folder not in self._runs:
                    self._runs[folder] = _RunSync(self._client, self._uri, folder, parent, self.counts, self._tell)
                self._runs[folder].send(over)
                parent = parent or self._runs[folder].id
        except Exception:
            self._runs.clear()
            raise


class _RunSync:
    """One run on its way. Finds it in the store, or makes it."""

    def __init__(
        self,
        client: mlflow.MlflowClient,
        uri: str,
        folder: Path,
        parent: str | None,
        counts: Counter[str],
        tell: Callable[[str], None],
    ) -> None:
        record = _record(folder)
        self._folder = folder
        self._reader = RunReader(folder, record.started)
        self._cursor = _Cursor(folder / "mlflow.json", redact_uri(uri))
        if self._cursor.run_id is None or not store.run_exists(client, self._cursor.run_id):
            experiment = store.experiment_id(client, record.experiment, uri)
            # The store may have it, if its answer or the cursor was lost.
            found = store.find_run(client, experiment, record.id)
            self._cursor.run_id = found or self._make(client, experiment, record, parent)
            self._cursor.sent = {}
            self._cursor.save()
            counts["runs"] += found is None
        assert self._cursor.run_id is not None
        self._run = MlflowRun(client, self._cursor.run_id, record, counts, tell)
        self._run.log_params(self._reader.params)
        self._looked_at: set[str] = set()
        self._over = False

    @property
    def id(self) -> str:
        """The MLflow run's."""
        return self._run.id

    def _make(self, client: mlflow.MlflowClient, experiment: str, record: Record, parent: str | None) -> str:
        tags = {store.RECORD: record.id, "method": str(self._reader.of_run("method", "custom"))}
        if record.plan is not None:
            stages = [dict(zip(("steps", "updates", "evaluations"), stage, strict=True)) for stage in record.plan]
            tags["plan"] = cut(json.dumps(stages))
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        name = self._reader.of_run("name", self._folder.absolute().name)
        run = client.create_run(experiment, start_time=record.started, tags=tags, run_name=name)
        return str(run.info.run_id)

    def send(self, over: bool) -> None:
        """Send what is new."""
        if self._over:
            return
        record = _record(self._folder)
        status = record.status
        if over and status is None:
            status = "finished" if (self._folder / "pipeline").is_dir() else "killed"
        finished = status == "finished"
        if status is None:
            self._run.set_status("RUNNING", None)
        self._run.log_points(self._reader.points(finished))
        for picture in self._reader.pictures(finished):
            self._send_once(picture.path, over, self._run.log_picture, picture)
        for name in FILES if finished else ():
            path = self._folder / name
            if path.is_file():
                self._send_once(path, over, self._run.log_file, path)
        if status is not None:
            self._run.set_status(status.upper(), record.ended or self._reader.newest)
            self._over = True

    def _send_once(self, path: Path, over: bool, send: Callable[[Any], None], content: Any) -> None:
        """Send a file unless the store has it as it is. While the run goes on, files are looked at once."""
        name = path.relative_to(self._folder).as_posix()
        if name in self._looked_at and not over:
            return
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if self._cursor.sent.get(name) != digest:
            send(content)
            self._cursor.sent[name] = digest
            self._cursor.save()
        self._looked_at.add(name)


class _Cursor:
    """mlflow.json in a run's folder: for each store, the MLflow run and the files that it has.

    The store itself knows the rest: parameters, the points of curves, and the status.

    Attributes:
        run_id: the MLflow run; None if none was made yet.
        sent: SHA-256 of the files that were sent, by their paths in the folder.
    """

    def __init__(self, path: Path, store: str) -> None:
        self._path = path
        self._store = store
        found = self._read().get(store, {})
        self.run_id: str | None = found.get("run_id")
        self.sent: dict[str, str] = found.get("sent", {})

    def _read(self) -> dict[str, Any]:
        """Empty where it can't be read: the store can be asked for the run."""
        try:
            return dict(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def save(self) -> None:
        """Write the file whole or not at all."""
        write_json(self._path, self._read() | {self._store: {"run_id": self.run_id, "sent": self.sent}})


def _record(folder: Path) -> Record:
    record = read_record(folder)
    assert record is not None
    return record
