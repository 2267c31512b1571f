"""Serves MLflow's UI."""

from __future__ import annotations

import os
import subprocess
import sys

import click

from distillkit.errors import DistillkitError
from distillkit_mlflow.uri import redact_uri, scheme, sqlite_file


def open_ui(uri: str, port: int) -> None:
    """Serve the UI of a store on http://127.0.0.1:`port` until it is stopped (Ctrl-C).

    Raises:
        DistillkitError: there is no store yet, it is a server that has a UI of its own, or the UI cannot start.
    """
    if scheme(uri) in ("http", "https"):
        raise DistillkitError(f"tracker.uri: {redact_uri(uri)} is a server with a UI of its own: open that address")
    file = sqlite_file(uri)
    if file is not None and not file.is_file():
        raise DistillkitError(f"tracker.uri: no run was recorded in {redact_uri(uri)} yet: there is no {file}")
    # The URI goes by the environment: a command line, and any password in it, is there for every user to see.
    environment = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
    }
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    click.echo(f"http://127.0.0.1:{port} (stop it with Ctrl-C)", err=True)
    server = subprocess.Popen(command, env=environment)
    try:
        status = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return
    if status:
        raise DistillkitError(f"the MLflow UI ended with status {status}; is port {port} in use? Choose another --port")
