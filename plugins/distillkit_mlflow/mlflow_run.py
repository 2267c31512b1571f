"""A run in an MLflow store. What is written twice is there once."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid5

import mlflow
import PIL.Image

from distillkit.errors import redact
from distillkit_mlflow.folder import Picture, Point, Record
from distillkit_mlflow.store import run_exists

BATCH = {"metrics": 1000, "params": 100}
"""Entries that MLflow takes at once."""

THUMBNAIL = 256
"""Pixels of the longer side."""


class MlflowRun:
    """
    Args:
        client: of the store.
        run_id: the run.
        record: of the run's folder.
        counts: what is written is added up here.
        tell: called with what the store will never take.
    """

    def __init__(
        self,
        client: mlflow.MlflowClient,
        run_id: str,
        record: Record,
        counts: Counter[str],
        tell: Callable[[str], None],
    ) -> None:
        self.id = run_id
        self._client = client
        self._record = record
        self._counts = counts
        self._tell = tell
        self._found = client.get_run(run_id)
        self._state: tuple[str, int | None] = (self._found.info.status, self._found.info.end_time)
        self._last: dict[str, int] = {}

    def log_params(self, params: Mapping[str, str]) -> None:
        """The parameters that the run lacks: those that it has can't be changed."""
        from mlflow.entities import Param

        self._log("params", [Param(key, value) for key, value in params.items() if key not in self._found.data.params])

    def log_points(self, points: Iterable[Point]) -> None:
        """The points behind the last one of their curve."""
        from mlflow.entities import Metric

        new = [point for point in points if point.step > self._last_step(point.key)]
        self._log("metrics", [Metric(point.key, point.value, point.time, point.step) for point in new])
        self._last |= {point.key: point.step for point in new}
        self._counts["points"] += len(new)

    def _last_step(self, key: str) -> int:
        """The last step of a curve in the store; −1 for a curve that isn't there."""
        if key not in self._last:
            history = self._client.get_metric_history(self.id, key) if key in self._found.data.metrics else []
            self._last[key] = max((point.step for point in history), default=-1)
        return self._last[key]

    def log_picture(self, picture: Picture) -> None:
        """A PNG, for the UI's slider over `step`, under names as MLflow's `log_image` gives them.

        That one draws a part of the name anew in each call, so a picture whose answer was lost would be there twice.
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
        self._counts["pictures"] += 1

    def log_file(self, path: Path) -> None:
        """A file as it is now. A config goes without the credentials of its URIs."""
        if path.suffix == ".toml":
            self._client.log_text(self.id, redact(path.read_text(encoding="utf-8")), path.name)
        else:
            self._client.log_artifact(self.id, str(path))
        self._counts["files"] += 1

    def set_status(self, status: str, ended: int | None) -> None:
        """The run goes on ("RUNNING"), or ended: "FINISHED", "FAILED" or "KILLED"."""
        if (status, ended) == self._state:
            return
        if ended is None:
            self._client.update_run(self.id, status=status)
        else:
            self._client.set_terminated(self.id, status, ended)
        self._state = (status, ended)

    def _log(self, kind: Literal["metrics", "params"], entries: list[Any]) -> None:
        """In batches. What the store refuses for what it is goes missing alone."""
        from mlflow.exceptions import MlflowException

        for i in range(0, len(entries), BATCH[kind]):
            batch = entries[i : i + BATCH[kind]]
            try:
                self._client.log_batch(self.id, **{kind: batch}, synchronous=True)
            except MlflowException as error:
                # A deleted run refuses everything.
                if error.error_code != "INVALID_PARAMETER_VALUE" or not run_exists(self._client, self.id):
                    raise
                if len(batch) == 1:
                    self._tell(f"MLflow refuses {batch[0].key}: {error.message}")
                for entry in batch if len(batch) > 1 else []:
                    self._log(kind, [entry])
