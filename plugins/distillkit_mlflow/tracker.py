"""The tracker `mlflow`: every parameter, curve, picture and score of a run in an MLflow store."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import torch
from pydantic import PlainSerializer

from distillkit.component import Component
from distillkit.errors import HIDDEN, DistillkitError, Mistake
from distillkit.interfaces import RunInfo, Tracker
from distillkit.interfaces.tracker import Status
from distillkit_mlflow import store, ui
from distillkit_mlflow.handle import Handle
from distillkit_mlflow.params import flatten, tags
from distillkit_mlflow.record import Record
from distillkit_mlflow.replay import replay
from distillkit_mlflow.uri import absolute, describe, mistake, redact_uri, sqlite_file

_logger = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds that the end of a run waits for the store. Five are promised."""

MAKING = 120.0
"""Seconds that the beginning of a run may wait for a new SQLite store to be made; it takes about ten."""

ENVIRONMENT = "MLFLOW_TRACKING_URI"
"""Where a URI is looked for that was written without its credentials."""

_running: dict[Path, MlflowTracker] = {}
"""The trackers of runs that are going on, by folder: a chain's phases find the chain's there."""


class MlflowTracker(Tracker):
    """Writes a record in the run's folder, which another process sends to MLflow.

    So the run goes on at full speed whatever becomes of the store. That it fails costs one warning; `distillkit track`
    sends what is missing.
    """

    name = "mlflow"
    has_ui = True

    class Options(Component.Options):
        """
        Attributes:
            uri: the tracking store: `sqlite:///` + file, a database, or a tracking server. A SQLite store's
                artifacts lie beside it in mlartifacts/. A run's own config.toml has `***` for a password in it.
            experiment: the MLflow experiment that the run belongs to.
        """

        # So that no credentials get into what is made of the resolved config: files, parameters, model cards.
        uri: Annotated[str, PlainSerializer(redact_uri)] = "sqlite:///mlflow.db"
        experiment: str = "distillkit"

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._record: Record | None = None
        self._handle: Handle | None = None
        self._chain: MlflowTracker | None = None
        self._warned = False

    @property
    def _uri(self) -> str:
        """The store, with its credentials."""
        hidden = HIDDEN in self.options.uri
        return absolute(os.environ.get(ENVIRONMENT, self.options.uri) if hidden else self.options.uri)

    def check(self) -> Iterator[Mistake]:
        """The store must be one that MLflow has, and a SQLite file's folder must be there."""
        if HIDDEN in self._uri:
            yield Mistake(
                "uri",
                f"was written without its credentials ({self.options.uri}): set {ENVIRONMENT} to the whole of it, or "
                "leave them out for MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        elif wrong := mistake(self._uri):
            yield Mistake("uri", wrong)

    def start(self, run: RunInfo) -> None:
        """Begin the record, or go on with a resumed run's, and start the process that sends it.

        A phase of a chain leaves that to the chain.

        Raises:
            DistillkitError: the store's driver is not installed.
        """
        try:
            store.load_driver(self._uri)
        except Exception as error:
            raise DistillkitError(
                f"tracker.uri: MLflow cannot record the run in {redact_uri(self._uri)}: {describe(self._uri, error)}; "
                'correct it, or set tracker.type = "none"'
            ) from None
        self._folder = run.folder
        above = None if run.parent is None else _running.get(run.parent)
        self._chain = above if above is not None and above._uri == self._uri else None
        _running[run.folder] = self
        self._guard(lambda: self._begin(run))
        if self._chain is None:
            self._guard(self._send)

    def _begin(self, run: RunInfo) -> None:
        self._record = record = Record(run.folder)
        if record.events:
            record.add("resume")
            return
        record.add(
            "start",
            id=str(uuid4()),
            name=run.name,
            experiment=self.options.experiment,
            uri=redact_uri(self.options.uri),
            store=redact_uri(self._uri),
            nested=self._chain is not None,
            tags=tags(run),
            params=flatten(run.settings),
        )

    def _send(self) -> None:
        file = sqlite_file(self._uri)
        is_new = file is not None and not file.exists()
        self._handle = Handle(self._folder, self._uri)
        if is_new:
            # It takes as long as many a short run.
            self._handle.wait_until_ready(MAKING)

    def log_metrics(self, metrics: Mapping[str, float], update: int) -> None:
        """Points of the curves at one update."""
        self._write(lambda record: record.add_metrics(metrics, update))

    def log_scores(self, scores: Sequence[Mapping[str, Any]]) -> None:
        """Each row as a metric `student/fd-fashion/steps-4`, and all of them as scores.json."""
        self._write(lambda record: record.add_scores(scores))

    def log_image(self, key: str, image: torch.Tensor, step: int) -> None:
        """A picture, uint8 [H, W, 3]; MLflow's UI shows those of one key with a slider over `step`."""
        self._write(lambda record: record.add_image(key, image, step))

    def log_file(self, path: Path) -> None:
        """A file as an artifact. A config goes without the credentials of its URIs."""
        self._write(lambda record: record.add_file(path))

    def finish(self, status: Status) -> None:
        """Close the run as FINISHED, FAILED or KILLED; wait five seconds at most for all to be sent."""
        self._write(lambda record: record.add("finish", status=status))
        handle, self._handle = self._handle, None
        if handle is not None and (trouble := handle.close(PATIENCE)):
            self._warn(trouble)
        _running.pop(self._folder, None)

    def replay(self, folder: Path) -> str:
        """Send what the record in a run's folder has and the store lacks."""

        return replay(folder, self.options.uri, self._uri)

    def open_ui(self, port: int) -> None:
        """Serve MLflow's UI on the store until it is stopped."""

        ui.open_ui(self._uri, port)

    def _write(self, write: Callable[[Record], None]) -> None:
        """Write to the record, and hear how the sending goes."""
        if (record := self._record) is not None:
            self._guard(lambda: write(record))
        handle = (self._chain or self)._handle
        if handle is not None and (trouble := handle.trouble()):
            self._warn(trouble)

    def _guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._warn(describe(self._uri, error))

    def _warn(self, trouble: str) -> None:
        """Tell the first trouble of a run, or of a chain with all its phases."""
        whole = self._chain or self
        if not whole._warned:
            whole._warned = True
            _logger.warning(
                "MLflow does not have all of the run, which goes on (%s): what is missing is sent as soon as that can "
                "be, or by: distillkit track %s",
                trouble,
                whole._folder,
            )
