"""A run whose model, data and store are local opens no network connection."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from distillkit_mlflow.uri import sqlite_file
from helpers.digits import MODEL, PLAIN, SCORED

BLOCK = """
import os
import sys


def refuse(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        # Sockets of this machine alone have a path, or none, as their address.
        address = arguments[1]
        if not isinstance(address, tuple):
            return
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[0]
    else:
        return
    file = os.open(os.environ["ATTEMPTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, f"{sys.argv}: {event} {address}\\n".encode())
    os.close(file)
    raise OSError("the network is blocked")


sys.addaudithook(refuse)
"""
"""Python calls it at the start of every process: what asks for the network is refused, and noted."""


class Blocked:
    """Processes without a network, and what they tried."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "block").mkdir()
        (folder / "block/sitecustomize.py").write_text(BLOCK, encoding="utf-8")
        # As a user's may be: nothing in it says that there is no network, and huggingface_hub's cache is empty.
        own = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "HF_", "DISABLE_"))}
        self._environment = own | {
            "PYTHONPATH": str(folder / "block"),
            "ATTEMPTS": str(folder / "attempts"),
            "HF_HOME": str(folder / "hub"),
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def attempts(self) -> list[str]:
        file = self.folder / "attempts"
        return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


@pytest.fixture
def blocked(tmp_path: Path) -> Blocked:
    return Blocked(tmp_path)


def test_the_block_blocks(blocked: Blocked) -> None:
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    assert "the network is blocked" in blocked.run("-c", code).stderr
    assert len(blocked.attempts) == 1


def test_a_run_asks_nobody(blocked: Blocked, store_uri: str, tmp_path: Path) -> None:
    store = sqlite_file(store_uri)
    assert store is not None
    shutil.copy(store, tmp_path / "mlflow.db")
    tables = (MODEL + PLAIN + SCORED).replace('"none"', '"mlflow"\nuri = "sqlite:///mlflow.db"\nexperiment = "alone"')
    (tmp_path / "mine.toml").write_text(f'preset = "dsdi"\n{tables}', encoding="utf-8")
    sets = ["run.updates=2", "run.log_every=1", "source.batch=2", "schedule.start=4", "evaluation.samples=20"]
    words = [word for assignment in sets for word in ("--set", assignment)]
    done = blocked.run("-m", "distillkit", "run", "mine.toml", "--output", "run", *words)
    assert done.returncode == 0, done.stderr
    # Waits for the process that sends, where the machine is slow.
    done = blocked.run("-m", "distillkit", "track", "run")
    assert (done.returncode, done.stdout) == (0, f"run -> sqlite:///{tmp_path}/mlflow.db: nothing was missing\n")
    assert blocked.attempts == []
