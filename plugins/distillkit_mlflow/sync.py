"""Sends a run's folder to MLflow: during a run, after a failure, and for `distillkit track`."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid5

import mlflow.entities
import mlflow.exceptions
import PIL.Image
from filelock import BaseFileLock, FileLock

from distillkit.errors import redact
from distillkit_mlflow import store
from distillkit_mlflow.folder import Picture, Record, RunReader, cut, flatten, read_record, tracker_table, write_json
from distillkit_mlflow.uri import redact_uri

EXPERIMENT = "distillkit"
"""The MLflow experiment of runs whose config names none."""

FILES = ("config.toml", "scores.json", "journal.jsonl")
"""The files of the run that are sent as artifacts."""

BATCH = {"metrics": 1000, "params": 100}
"""The most entries that MLflow accepts at once."""

THUMBNAIL = 256
"""The longer side of a thumbnail, in pixels."""


def lock(folder: Path) -> BaseFileLock:
    """The lock of the process that sends a run."""
    return FileLock(folder / ".tracking.lock")


class Sync:
    """Sends a run, with its phases, to one store.

    Args:
        uri: the store.
        folder: the run's folder, which has a record.
        tell: called with a message about each entry that the store refuses.
    """

    def __init__(self, uri: str, folder: Path, tell: Callable[[str], None]) -> None:
        self.uri = uri
        self.tell = tell
        self.counts: Counter[str] = Counter()
        self._folder = folder
        self._client: mlflow.MlflowClient | None = None
        self._runs: dict[Path, _Run] = {}

    def send(self, over: bool) -> None:
        """Send everything that the store does not have yet.

        Args:
            over: whether the run has ended. If its record does not say how, it was killed.

        Raises:
            Exception: of MLflow. The next call asks the store what has arrived, and continues there.
        """
        phases = sorted(self._folder.glob("phases/*/tracking.json"), key=lambda path: int(path.parent.name))
        try:
            if self._client is None:
                self._client = store.open_store(self.uri)
            parent = None
            for folder in (self._folder, *(path.parent for path in phases)):
                if folder not in self._runs:
                    self._runs[folder] = _Run(self, self._client, folder, parent)
                self._runs[folder].send(over)
                parent = parent or self._runs[folder].id
        except Exception:
            self._runs.clear()
            raise


class _Run:
    """Sends one run or one phase. Sending is idempotent.

    The cursor, mlflow.json in the run's folder, has for each store the id of the MLflow run and the files that were
    sent, with their SHA-256. The rest is read from the store: parameters, the last point of each curve, and the status.
    """

    def __init__(self, sync: Sync, client: mlflow.MlflowClient, folder: Path, parent: str | None) -> None:
        self._sync = sync
        self._client = client
        self._folder = folder
        self._store = redact_uri(sync.uri)
        self._record = record = self._read_record()
        self._reader = RunReader(folder, record.started)
        cursor = self._cursors().get(self._store)
        run = None if cursor is None else store.get_run(client, cursor["run_id"])
        self._sent: dict[str, str] = {}
        if cursor is not None and run is not None:
            self._sent = cursor["sent"]
        else:
            name = tracker_table(self._reader.config).get("experiment", EXPERIMENT)
            experiment = store.experiment_id(client, name, sync.uri)
            # The store may have the run already, if its response or the cursor was lost.
            run = store.find_run(client, experiment, record.id) or self._make(experiment, parent)
        self._run = run
        self.id = str(run.info.run_id)
        self._save_cursor()
        self._state = (run.info.status, run.info.end_time)
        self._last: dict[str, int] = {}
        self._looked_at: set[str] = set()
        self._over = False
        # Parameters in the store cannot be changed.
        params = {key: value for key, value in flatten(self._reader.config).items() if key not in run.data.params}
        self._log("params", [mlflow.entities.Param(key, value) for key, value in params.items()])

    def _read_record(self) -> Record:
        record = read_record(self._folder)
        if record is None:
            raise FileNotFoundError(f"{self._folder}/tracking.json is gone")
        return record

    def _cursors(self) -> dict[str, dict[str, Any]]:
        """Read the cursors of all stores; empty if the file cannot be read, because the store can be asked."""
        try:
            return dict(json.loads((self._folder / "mlflow.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def _save_cursor(self) -> None:
        cursor = {"run_id": self.id, "sent": self._sent}
        write_json(self._folder / "mlflow.json", self._cursors() | {self._store: cursor})

    def _make(self, experiment: str, parent: str | None) -> mlflow.entities.Run:
        table, record = self._reader.config["run"], self._record
        tags = {store.RECORD: record.id, "method": str(table.get("method", "custom"))}
        if record.plan is not None:
            tags["plan"] = cut(json.dumps(record.plan))
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        self._sync.counts["run"] += 1
        return self._client.create_run(experiment, start_time=record.started, tags=tags, run_name=table["name"])

    def send(self, over: bool) -> None:
        """Send what is new."""
        if self._over:
            return
        self._record = record = self._read_record()
        status = record.status or ("killed" if over else None)
        if status is not None and (self._folder / "pipeline").is_dir():
            # The run was killed after everything was written.
            status = "finished"
        finished = status == "finished"
        if status is None:
            self._set_status("RUNNING", None)
        self._send_points(status is not None, finished)
        for picture in self._reader.pictures(finished):
            self._send_file(picture.path, over, picture)
        for name in FILES if finished else ():
            if (self._folder / name).is_file():
                self._send_file(self._folder / name, over)
        if status is not None:
            self._set_status(status.upper(), record.ended or self._reader.newest)
            self._over = True

    def _set_status(self, status: str, ended: int | None) -> None:
        if (status, ended) == self._state:
            return
        if ended is None:
            self._client.update_run(self.id, status=status)
        else:
            self._client.set_terminated(self.id, status, ended)
        self._state = (status, ended)

    def _send_points(self, over: bool, finished: bool) -> None:
        """Send the points after the last one of each curve in the store."""
        new = [point for point in self._reader.points(over, finished) if point.step > self._last_step(point.key)]
        self._log("metrics", [mlflow.entities.Metric(point.key, point.value, point.time, point.step) for point in new])
        self._last |= {point.key: point.step for point in new}
        self._sync.counts["point"] += len(new)

    def _last_step(self, key: str) -> int:
        if key not in self._last:
            history = self._client.get_metric_history(self.id, key) if key in self._run.data.metrics else []
            self._last[key] = max((point.step for point in history), default=-1)
        return self._last[key]

    def _send_file(self, path: Path, over: bool, picture: Picture | None = None) -> None:
        """Send a file unless the store has the same content. While the run is running, each file is read once."""
        name = path.relative_to(self._folder).as_posix()
        if name in self._looked_at and not over:
            return
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if self._sent.get(name) != digest:
            if picture is not None:
                self._log_picture(picture)
            elif path.suffix == ".toml":
                self._client.log_text(self.id, redact(path.read_text(encoding="utf-8")), path.name)
            else:
                self._client.log_artifact(self.id, str(path))
            self._sync.counts["file" if picture is None else "picture"] += 1
            self._sent[name] = digest
            self._save_cursor()
        self._looked_at.add(name)

    def _log_picture(self, picture: Picture) -> None:
        """Send a PNG for the UI's slider over `step`, under a name as MLflow's `log_image` would choose.

        `log_image` draws a part of the name at random, so a picture whose response was lost would be sent twice.
        """
        series = f"{picture.key.replace('/', '~')}+step+{picture.step}+timestamp+{self._record.started + picture.step}"
        name = f"{series}+{uuid5(UUID(self._record.id), f'{picture.key}/{picture.step}')}"
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, f"{name}.png"), Path(folder, f"{name}+compressed.webp")]
            shutil.copyfile(picture.path, files[0])
            with PIL.Image.open(picture.path) as image:
                scale = THUMBNAIL / max(image.size)
                image.resize((int(image.width * scale) or 1, int(image.height * scale) or 1)).save(files[1])
            for file in files:
                self._client.log_artifact(self.id, str(file), "images")
        self._client.set_tag(self.id, "mlflow.loggedImages", "True")

    def _log(self, kind: Literal["metrics", "params"], entries: list[Any]) -> None:
        """Send entries in batches. If the store refuses an entry, only that entry is left out."""
        for i in range(0, len(entries), BATCH[kind]):
            batch = entries[i : i + BATCH[kind]]
            try:
                self._client.log_batch(self.id, **{kind: batch}, synchronous=True)
            except mlflow.exceptions.MlflowException as error:
                # A deleted run refuses everything.
                if error.error_code != "INVALID_PARAMETER_VALUE" or store.get_run(self._client, self.id) is None:
                    raise
                if len(batch) == 1:
                    self._sync.tell(f"MLflow refuses {batch[0].key}: {error.message}")
                for entry in batch if len(batch) > 1 else []:
                    self._log(kind, [entry])
