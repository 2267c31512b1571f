"""The run's side of the process that sends a run to MLflow."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

LINGER = 60.0
"""Seconds after the end of the run in which the process may finish."""

NOTE = "note: "
"""How a line begins that is no problem."""

_left: list[subprocess.Popen[bytes]] = []
"""Processes that finish by themselves. They are kept, because Python warns when a running one is deleted."""


class Process:
    """Starts the process. Only `wait_until_ready` and `close` wait for it.

    Args:
        folder: the run's folder.
        uri: the store. It goes through a pipe, because every user can see a command line and any password in it.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        # In a session of its own, so that Ctrl-C in the terminal does not reach it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "distillkit_mlflow.shipper", str(folder), sys.argv[0]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        self._input.write(f"{uri}\n".encode())
        for pipe in (self._input, self._output):
            os.set_blocking(pipe.fileno(), False)
        self._heard = b""
        self._noted = 0

    def sync(self) -> str | None:
        """Let the process send what is new in the folder.

        Returns:
            The first problem, if there is one.
        """
        # A full pipe has the same effect, and a broken one is noticed below.
        with suppress(OSError):
            self._input.write(b"\n")
        return self._problem()

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until the process has opened the store and sent something, or has a problem."""
        end = time.monotonic() + seconds
        while self._problem() is None and not self._heard and (left := end - time.monotonic()) > 0:
            select.select([self._output], [], [], min(left, 0.5))

    def close(self, seconds: float) -> str | None:
        """Let the process finish, and wait for it.

        Returns:
            None if everything was sent; otherwise the problem.
        """
        self._input.close()
        with self._output:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                if self._problem() is None:
                    # The store is slow or does not answer. The process may still succeed, and ends by itself.
                    _left.append(self._process)
                    return "the store has not answered yet; sending continues for another minute"
                self._process.kill()
                self._process.wait()
            return self._problem() if self._process.returncode else None

    def notes(self) -> list[str]:
        """What the process has told besides problems, since the last call."""
        found = [line.removeprefix(NOTE) for line in self._lines() if line.startswith(NOTE)]
        new, self._noted = found[self._noted :], len(found)
        return new

    def _lines(self) -> list[str]:
        return self._heard.decode().split("\n")[:-1]

    def _problem(self) -> str | None:
        """The first problem that the process has reported, or its exit status if it ended too early; None otherwise."""
        self._heard += self._output.read() or b""
        written = next((line for line in self._lines() if line and not line.startswith(NOTE)), None)
        status = self._process.poll()
        return written or (f"the process that sends the run ended with status {status}" if status else None)
