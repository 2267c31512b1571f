"""The tracker `mlflow`: every parameter, curve, picture and score of a run in an MLflow store."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Annotated, ClassVar

import click
from filelock import Timeout
from pydantic import PlainSerializer

from distillkit.component import Component
from distillkit.errors import HIDDEN, DistillkitError, Mistake
from distillkit.interfaces import RunInfo, Tracker
from distillkit.interfaces.tracker import Status
from distillkit_mlflow import sqlite, store
from distillkit_mlflow.process import LINGER, Process
from distillkit_mlflow.record import URI_VARIABLE, begin, choose_place, choose_store, end, read_record, wrong_tags
from distillkit_mlflow.sync import Sync, lock
from distillkit_mlflow.uri import describe, mistake, redact_uri, scheme, sqlite_file

_logger = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds that the end of a run waits for the store; documented are five."""


class MlflowTracker(Tracker):
    """Shows the run's folder in MLflow. A separate process reads the folder and sends what is new.

    The run continues at full speed even if the store is down, slow or locked. A failure causes one warning, and
    `distillkit track` sends what is missing.
    """

    name = "mlflow"
    default = True
    has_ui = True
    command_options: ClassVar[Mapping[str, str]] = {"store": "uri"}

    class Options(Component.Options):
        """
        Attributes:
            uri: the tracking store: `sqlite:///` + file, a database, or a tracking server. If left out:
                MLFLOW_TRACKING_URI when the run is started, or `sqlite:///mlflow.db`. The artifacts of a SQLite store
                are in mlartifacts/ beside it. The run's config.toml has `***` instead of a password.
            experiment: the MLflow experiment that the run belongs to. If left out: MLFLOW_EXPERIMENT_NAME or
                MLFLOW_EXPERIMENT_ID when the run is started, or `distillkit`.
        """

        # Without credentials in the resolved config, which is copied to files, parameters and model cards.
        uri: Annotated[str, PlainSerializer(redact_uri)] | None = None
        experiment: str | None = None

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._folders: list[Path] = []
        self._uri = ""
        """The store, with its credentials, once a run has begun."""
        self._process: Process | None = None
        self._warned = False

    def check(self) -> Iterator[Mistake]:
        """MLflow must support the store, and the folder of a SQLite file must exist."""
        if wrong := self._wrong(choose_store(self.options.uri, None)):
            yield Mistake("uri", wrong)
        if wrong := wrong_tags():
            yield Mistake("", wrong)
        if self.options.experiment is not None and not self.options.experiment.strip():
            yield Mistake("experiment", f"must be a name (got '{self.options.experiment}')")

    def _wrong(self, uri: str) -> str | None:
        """The mistake in the URI of the chosen store; None if there is none."""
        if HIDDEN in uri:
            return (
                f"has no credentials ({redact_uri(uri)}): set {URI_VARIABLE} to the complete URI, or set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD and leave the credentials out"
            )
        is_said = self.options.uri is not None or not os.environ.get(URI_VARIABLE)
        return f"{'' if is_said else f'{URI_VARIABLE}: '}{wrong}" if (wrong := mistake(uri)) else None

    def _choose(self, folder: Path) -> str:
        """The store of a run, with its credentials.

        Raises:
            DistillkitError: the credentials are missing, or MLflow does not support the store.
        """
        uri = choose_store(self.options.uri, read_record(folder))
        if wrong := self._wrong(uri):
            raise DistillkitError(f"{folder}: tracker.uri: {wrong}")
        return uri

    def start(self, run: RunInfo) -> None:
        """Write the run's record, and start the process that sends the run, with all its phases.

        Raises:
            DistillkitError: the store's driver is not installed, or its credentials are missing.
        """
        if not self._folders:
            self._uri = self._choose(run.folder)
        try:
            store.load_driver(self._uri)
        except Exception as error:
            raise DistillkitError(
                f"tracker.uri: MLflow cannot record the run in {redact_uri(self._uri)}: {describe(self._uri, error)}; "
                'correct it, or set tracker.type = "none"'
            ) from None
        self._folders.append(run.folder)
        plan = [
            {"steps": stage.steps, "updates": stage.updates, "evaluations": stage.all_evaluations} for stage in run.plan
        ]
        self._guard(lambda: self._begin(run.folder, self._folders[0], plan))
        if len(self._folders) == 1:
            self._guard(self._start_process)

    def _begin(self, folder: Path, whole: Path, plan: list[dict[str, int]] | None = None) -> None:
        """Write the record of a run, or of a phase of the run `whole`, which has the same store and experiment."""
        record = read_record(folder) or read_record(whole)
        begin(folder, choose_place(self.options.uri, self.options.experiment, record), plan)

    def _start_process(self) -> None:
        file = sqlite_file(self._uri)
        is_new = file is not None and sqlite.is_missing(file)
        self._process = Process(self._folders[0], self._uri)
        if is_new:
            # Creating it can take as long as a short run.
            self._process.wait_until_ready(sqlite.MAKING)
        elif file is not None:
            # Checked here because a short run ends before the process has imported MLflow.
            with suppress(sqlite3.Error):
                sqlite.check(file, timeout=0)

    def sync(self) -> None:
        """Notify the process that there is something new."""
        if self._process is not None:
            self._hear(self._process, self._process.sync())

    def finish(self, status: Status) -> None:
        """End the MLflow run as FINISHED, FAILED or KILLED; wait at most five seconds until everything is sent."""
        self._guard(lambda: end(self._folders[-1], status))
        if len(self._folders) > 1:
            self.sync()
        elif self._process is not None:
            self._hear(self._process, self._process.close(PATIENCE))
            self._process = None
        self._folders.pop()

    def _hear(self, process: Process, trouble: str | None) -> None:
        if trouble:
            self._warn(trouble)
        for note in process.notes():
            _logger.warning("%s", note)

    def _guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            self._warn(describe(self._uri, error))

    def _warn(self, trouble: str) -> None:
        """Log the first problem of a run, with all its phases."""
        if not self._warned:
            self._warned = True
            _logger.warning(
                "MLflow does not have all of the run, which continues (%s): the rest is sent as soon as possible, or "
                "by: distillkit track %s",
                trouble,
                self._folders[0],
            )

    def send(self, folder: Path) -> str:
        """Send everything of a run that the store does not have.

        Raises:
            DistillkitError: the run is still running, or the store refuses it.
        """
        whole = folder.absolute().parent.parent
        if (whole / "tracking.json").is_file():
            raise DistillkitError(
                f"{folder}: is a phase of the run {whole}: send the whole run with distillkit track {whole}"
            )
        record, uri = read_record(folder), self._choose(folder)
        for each in (folder, *(config.parent for config in folder.glob("phases/*/config.toml"))):
            if not (each / "tracking.json").is_file():
                # Made with another tracker.
                self._begin(each, folder)
        sync = Sync(uri, folder, _logger.warning, _logger.warning)
        try:
            # MLflow prints links, with the URI in them.
            with (
                lock(folder).acquire(timeout=LINGER + 5 if record is not None and record.status is not None else 0),
                open(os.devnull, "w") as nowhere,
                redirect_stdout(nowhere),
            ):
                sync.send(over=True)
        except Timeout:
            raise DistillkitError(f"{folder}: the run is still going on, and is sent while it does") from None
        except Exception as error:
            raise DistillkitError(
                f"{redact_uri(uri)}: MLflow did not accept the run in {folder} ({describe(uri, error)}); nothing is "
                "lost, try again later"
            ) from None
        sent = ", ".join(f"{count} {what}{'s' if count != 1 else ''}" for what, count in sync.counts.items() if count)
        return f"{folder} -> {redact_uri(uri)}: {f'sent {sent}' if sent else 'nothing was missing'}"

    def open_ui(self, port: int, folder: Path | None = None) -> None:
        """Serve MLflow's UI on http://127.0.0.1:`port` until it is stopped (Ctrl-C).

        Raises:
            DistillkitError: there is no store yet or MLflow cannot use it, it is a server that has a UI of its own, or
                the UI cannot start.
        """
        uri = choose_store(self.options.uri, None) if folder is None else self._choose(folder)
        if scheme(uri) in ("http", "https"):
            raise DistillkitError(f"tracker.uri: {redact_uri(uri)} is a server with its own UI: open that address")
        if (file := sqlite_file(uri)) is not None:
            if sqlite.is_missing(file):
                raise DistillkitError(f"tracker.uri: no run was recorded in {redact_uri(uri)} yet: there is no {file}")
            with suppress(sqlite3.Error):
                sqlite.check(file)
        # The URI is in the environment, because every user can see a command line and any password in it.
        environment = {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": uri,
            "PYTHONSAFEPATH": "1",
        }
        command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        click.echo(f"http://127.0.0.1:{port} (stop it with Ctrl-C)", err=True)
        # uvicorn imports from its current folder, in which somebody else's modules may be.
        server = subprocess.Popen(command, env=environment, cwd=sys.prefix)
        try:
            status = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return
        if status:
            raise DistillkitError(
                f"the MLflow UI ended with status {status}; is port {port} in use? Choose another --port"
            )
