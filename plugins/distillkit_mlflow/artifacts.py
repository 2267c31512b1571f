"""Sends the pictures and files of a run to its artifact store, which may be another server than the tracking store."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter, deque
from pathlib import Path
from uuid import UUID, uuid5

import mlflow
import PIL.Image

from distillkit.errors import redact
from distillkit_mlflow.cursor import Sent
from distillkit_mlflow.folder import Picture, PictureReader
from distillkit_mlflow.record import outcome
from distillkit_mlflow.run import present_record

FILES = ("config.toml", "scores.json", "journal.jsonl")
"""The files of the run that are sent as artifacts."""

THUMBNAIL = 256
"""The longer side of a thumbnail, in pixels."""


class Artifacts:
    """Sends the pictures and files of one run or one phase. Sending is idempotent: names in the store do not change.

    Args:
        client: a client of the store.
        folder: the run's folder, which has a record.
        run_id: the id of the MLflow run.
        counts: counts what is sent.
    """

    def __init__(self, client: mlflow.MlflowClient, folder: Path, run_id: str, counts: Counter[str]) -> None:
        self._client = client
        self._folder = folder
        self._run_id = run_id
        self._counts = counts
        self._record = present_record(folder)
        self._reader = PictureReader(folder)
        self._sent = Sent(folder, run_id)
        self._waiting: deque[Picture | Path] = deque()
        self._is_tagged = False
        self._over = False

    def send(self, over: bool) -> None:
        """Send what is new. While the run is running, each picture is read once; at its end, all files are compared.

        Args:
            over: whether the run has ended.

        Raises:
            Exception: of MLflow. The next call continues with the same file.
        """
        if not self._over:
            status = outcome(self._folder, present_record(self._folder), over)
            if status is None:
                self._waiting.extend(self._reader.new())
            else:
                finished = status == "finished"
                files = [self._folder / name for name in FILES if finished]
                self._waiting = deque([*self._reader.all(finished), *(file for file in files if file.is_file())])
                self._over = True
        while self._waiting:
            self._send(self._waiting[0])
            self._waiting.popleft()

    def _send(self, item: Picture | Path) -> None:
        """Send a picture or a file, unless the store has the same content."""
        path = item.path if isinstance(item, Picture) else item
        name = path.relative_to(self._folder).as_posix()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self._sent.has(name, digest):
            return
        if isinstance(item, Picture):
            self._log_picture(item)
        elif path.suffix == ".toml":
            self._client.log_text(self._run_id, redact(path.read_text(encoding="utf-8")), path.name)
        else:
            self._client.log_artifact(self._run_id, str(path))
        self._sent.add(name, digest)
        self._counts["picture" if isinstance(item, Picture) else "file"] += 1

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
                self._client.log_artifact(self._run_id, str(file), "images")
        if not self._is_tagged:
            self._client.set_tag(self._run_id, "mlflow.loggedImages", "True")
            self._is_tagged = True
