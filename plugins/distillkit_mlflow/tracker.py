"""The tracker `mlflow`: every parameter, curve, picture and score of a run in an MLflow store."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import click
from filelock import Timeout
from pydantic import PlainSerializer

from distillkit.component import Component
from distillkit.errors import HIDDEN, DistillkitError, Mistake
from distillkit.interfaces import RunInfo, Tracker
from distillkit.interfaces.tracker import Status
from distillkit_mlflow import store
from distillkit_mlflow.folder import begin, end, read_config, read_record, tracker_table
from distillkit_mlflow.process import LINGER, Process
from distillkit_mlflow.sync import EXPERIMENT, Sync, lock
from distillkit_mlflow.uri import absolute, describe, mistake, redact_uri, scheme, sqlite_file

_logger = logging.getLogger(__name__)

PATIENCE = 4.0
"""Seconds that the end of a run waits for the store; documented are five."""

MAKING = 120.0
"""Seconds that the start of a run may wait for the creation of a SQLite store, which takes about ten."""

ENVIRONMENT = "MLFLOW_TRACKING_URI"
"""The environment variable with the complete URI, if the config has it without its credentials."""


class MlflowTracker(Tracker):
    """Shows the run's folder in MLflow. A separate process reads the folder and sends what is new.

    The run continues at full speed even if the store is down, slow or locked. A failure causes one warning, and
    `distillkit track` sends what is missing.
    """

    name = "mlflow"
    default = True
    has_ui = True

    class Options(Component.Options):
        """
        Attributes:
            uri: the tracking store: `sqlite:///` + file, a database, or a tracking server. The artifacts
                of a SQLite store are in mlartifacts/ beside it. The run's config.toml has `***` instead of a password.
            experiment: the MLflow experiment that the run belongs to.
        """

        # Without credentials in the resolved config, which is copied to files, parameters and model cards.
        uri: Annotated[str, PlainSerializer(redact_uri)] = "sqlite:///mlflow.db"
        experiment: str = EXPERIMENT

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._folders: list[Path] = []
        self._process: Process | None = None
        self._warned = False

    @property
    def _uri(self) -> str:
        """The store, with its credentials."""
        hidden = HIDDEN in self.options.uri
        return absolute(os.environ.get(ENVIRONMENT, self.options.uri) if hidden else self.options.uri)

    def check(self) -> Iterator[Mistake]:
        """MLflow must support the store, and the folder of a SQLite file must exist."""
        if HIDDEN in self._uri:
            yield Mistake(
                "uri",
                f"has no credentials ({self.options.uri}): set {ENVIRONMENT} to the complete URI, or set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD and leave the credentials out",
            )
        elif wrong := mistake(self._uri):
            yield Mistake("uri", wrong)

    def start(self, run: RunInfo) -> None:
        """Write the run's record, and start the process that sends the run, with all its phases.

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
        self._folders.append(run.folder)
        plan = [
            {"steps": stage.steps, "updates": stage.updates, "evaluations": stage.all_evaluations} for stage in run.plan
        ]
        self._guard(lambda: begin(run.folder, redact_uri(self._uri), plan))
        if len(self._folders) == 1:
            self._guard(self._start_process)

    def _start_process(self) -> None:
        file = sqlite_file(self._uri)
        is_new = file is not None and not file.exists()
        self._process = Process(self._folders[0], self._uri)
        if is_new:
            # Creating it can take as long as a short run.
            self._process.wait_until_ready(MAKING)

    def sync(self) -> None:
        """Notify the process that there is something new."""
        if self._process is not None and (trouble := self._process.sync()):
            self._warn(trouble)

    def finish(self, status: Status) -> None:
        """End the MLflow run as FINISHED, FAILED or KILLED; wait at most five seconds until everything is sent."""
        self._guard(lambda: end(self._folders[-1], status))
        if len(self._folders) > 1:
            self.sync()
        elif self._process is not None:
            if trouble := self._process.close(PATIENCE):
                self._warn(trouble)
            self._process = None
        self._folders.pop()

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
        record, uri = read_record(folder), self._uri
        for each in (folder, *(config.parent for config in folder.glob("phases/*/config.toml"))):
            if not (each / "tracking.json").is_file():
                # Made with another tracker.
                begin(each)
        is_own = redact_uri(self.options.uri) == tracker_table(read_config(folder)).get("uri")
        if is_own and record is not None and record.store and sqlite_file(uri) is not None:
            # The run may have been started in another working directory.
            uri = record.store
        sync = Sync(uri, folder, _logger.warning)
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

    def open_ui(self, port: int) -> None:
        """Serve MLflow's UI on http://127.0.0.1:`port` until it is stopped (Ctrl-C).

        Raises:
            DistillkitError: there is no store yet, it is a server that has a UI of its own, or the UI cannot start.
        """
        uri = self._uri
        if scheme(uri) in ("http", "https"):
            raise DistillkitError(f"tracker.uri: {redact_uri(uri)} is a server with its own UI: open that address")
        file = sqlite_file(uri)
        if file is not None and not file.is_file():
            raise DistillkitError(f"tracker.uri: no run was recorded in {redact_uri(uri)} yet: there is no {file}")
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
