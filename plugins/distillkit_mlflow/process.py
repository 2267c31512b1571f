"""The process that sends a run to MLflow, as the run sees it."""

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

_left: list[subprocess.Popen[bytes]] = []
"""Processes that were left to finish by themselves; kept, as Python warns of those that nobody holds."""


class Process:
    """Starts the process. Only `wait_until_ready` and `close` wait for it.

    Args:
        folder: the run's.
        uri: the store. It goes through a pipe: a command line, and any password in it, is there for every user to see.

    Raises:
        OSError: no process can be started.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        # In a session of its own, where no Ctrl-C in the terminal reaches it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "distillkit_mlflow.shipper", str(folder)],
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

    def sync(self) -> str | None:
        """Have it send what is new in the folder.

        Returns:
            what has gone wrong, if anything has.
        """
        # A pipe that is full has the same effect, and a broken one is noticed below.
        with suppress(OSError):
            self._input.write(b"\n")
        return self._trouble()

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until it has opened the store and sent something, or has trouble."""
        end = time.monotonic() + seconds
        while self._trouble() is None and not self._heard and (left := end - time.monotonic()) > 0:
            select.select([self._output], [], [], min(left, 0.5))

    def close(self, seconds: float) -> str | None:
        """Have it finish, and wait for that.

        Returns:
            None if everything was sent; or what the trouble is.
        """
        self._input.close()
        with self._output:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                if self._trouble() is None:
                    # Slow, or without an answer: it may yet succeed, and ends by itself.
                    _left.append(self._process)
                    return "it has not answered yet, and is tried for a minute more"
                self._process.kill()
                self._process.wait()
            return self._trouble() if self._process.returncode else None

    def _trouble(self) -> str | None:
        """What it has written: its first trouble, after an empty line once it is ready; or how it ended too early."""
        self._heard += self._output.read() or b""
        written = next(filter(None, self._heard.decode().split("\n")[:-1]), None)
        status = self._process.poll()
        return written or (f"the process that sends ended with status {status}" if status else None)
