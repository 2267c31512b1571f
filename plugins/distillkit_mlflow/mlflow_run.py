"""One run in an MLflow store, written so that to write anything twice changes nothing there."""

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
        record: the id of the run's record.
        counts: what is written is added up here.
        tell: told what the store will never take.
    """

    def __init__(
        self, client: mlflow.MlflowClient, run_id: str, record: str, counts: Counter[str], tell: Callable[[str], None]
    ) -> None:
        self.id = run_id
        self._client = client
        self._record = record
        self._counts = counts
        self._tell = tell

    def log_params(self, params: Mapping[str, str]) -> None:
        """The settings."""
        from mlflow.entities import Param

        self._log("params", [Param(key, value) for key, value in params.items()])

    def log_points(self, metrics: Iterable[tuple[Mapping[str, float], int, int]]) -> None:
        """Points of curves: values by key, update, time. MLflow knows a point again by all four."""
        from mlflow.entities import Metric

        points = [Metric(key, value, time, update) for values, update, time in metrics for key, value in values.items()]
        self._log("metrics", points)
        self._counts["points"] += len(points)

    def log_image(self, picture: Path, key: str, step: int, time: int) -> None:
        """A PNG, for the UI's slider over `step`, under names as MLflow's `log_image` gives them.

        That one draws a part of the name anew in each call, so a picture whose answer was lost would be there twice.
        """
        if not self._is_there(picture):
            return

        name = f"{key.replace('/', '~')}+step+{step}+timestamp+{time}+{uuid5(UUID(self._record), f'{key}/{step}')}"
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder, f"{name}.png"), Path(folder, f"{name}+compressed.webp")]
            shutil.copyfile(picture, files[0])
            with PIL.Image.open(picture) as image:
                scale = THUMBNAIL / max(image.size)
                image.resize((int(image.width * scale) or 1, int(image.height * scale) or 1)).save(files[1])
            for file in files:
                self._client.log_artifact(self.id, str(file), "images")
        self._client.set_tag(self.id, "mlflow.loggedImages", "True")
        self._counts["pictures"] += 1

    def log_text(self, text: str, name: str) -> None:
        """A text as a file."""
        self._client.log_text(self.id, text, name)
        self._counts["files"] += 1

    def log_file(self, path: Path) -> None:
        """A file as it is now. A config goes without the credentials of its URIs."""
        if not self._is_there(path):
            return
        if path.suffix == ".toml":
            self.log_text(redact(path.read_text(encoding="utf-8")), path.name)
            return
        self._client.log_artifact(self.id, str(path))
        self._counts["files"] += 1

    def begin(self) -> None:
        """The run is going on."""
        self._client.update_run(self.id, status="RUNNING")

    def end(self, status: str, time: int) -> None:
        """The run is over: "finished", "failed" or "killed"."""
        self._client.set_terminated(self.id, status.upper(), time)

    def _log(self, kind: Literal["metrics", "params"], entries: list[Any]) -> None:
        """In batches. What the store refuses for what it is goes missing alone."""
        from mlflow.exceptions import MlflowException

        for i in range(0, len(entries), BATCH[kind]):
            part = entries[i : i + BATCH[kind]]
            try:
                self._client.log_batch(self.id, **{kind: part}, synchronous=True)
            except MlflowException as error:
                # A deleted run refuses everything.
                if error.error_code != "INVALID_PARAMETER_VALUE" or not run_exists(self._client, self.id):
                    raise
                if len(part) == 1:
                    self._tell(f"MLflow refuses {part[0].key}: {error.message}")
                for entry in part if len(part) > 1 else []:
                    self._log(kind, [entry])

    def _is_there(self, path: Path) -> bool:
        if not path.is_file():
            self._tell(f"{path} is not there any more, and cannot be sent")
        return path.is_file()
