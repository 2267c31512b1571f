"""The process that sends a run to MLflow, as the run sees it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

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
        command = [sys.executable, "-P", "-m", "distillkit_mlflow.shipper", str(folder)]
        # In a session of its own, where no Ctrl-C in the terminal reaches it.
        self._process = subprocess.Popen(
            command,
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
        # A full pipe has the same effect; one that is broken is noticed below.
        with suppress(OSError):
            self._input.write(b"sync\n")
        messages = self._listen()
        status = self._process.poll()
        if "trouble" not in messages and status is not None:
            return f"the process that sends ended with status {status}"
        return messages.get("trouble")

    def wait_until_ready(self, seconds: float) -> None:
        """Wait until it has opened the store and sent something, or has trouble."""
        end = time.monotonic() + seconds
        while not self._listen() and self._process.poll() is None and (left := end - time.monotonic()) > 0:
            select.select([self._output], [], [], min(left, 0.5))

    def close(self, seconds: float) -> str | None:
        """Have it finish, and wait for that.

        Returns:
            None if everything was sent; or what the trouble is.
        """
        self._input.close()
        try:
            status = self._process.wait(seconds)
            trouble = self._listen().get("trouble") or f"the process that sends ended with status {status}"
        except subprocess.TimeoutExpired:
            trouble = self._listen().get("trouble", "")
            if not trouble:
                # Slow, or without an answer: it may yet succeed, and ends by itself.
                _left.append(self._process)
                self._output.close()
                return "it has not answered yet, and is tried for a minute more"
            self._process.kill()
            status = self._process.wait()
        self._output.close()
        return trouble if status else None

    def _listen(self) -> dict[str, str]:
        """All messages until now, by kind: "ready" and "trouble"."""
        if not self._output.closed:
            self._heard += self._output.read() or b""
        messages: dict[str, str] = {}
        for line in self._heard.split(b"\n")[:-1]:
            messages |= json.loads(line)
        return messages
