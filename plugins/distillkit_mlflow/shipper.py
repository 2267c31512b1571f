"""The process that sends a run to MLflow while the run goes on: `python -m distillkit_mlflow.shipper FOLDER PROGRAM`.

It is a separate process, because importing MLflow takes seconds, and a thread that hangs could not be left behind. Its
input has the store's URI, then a line whenever there is something new, and ends when the run ends. It writes an empty
line to its output when it is ready, a line for its first problem, and lines that begin with `NOTE`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distillkit.errors import SIGNALS
from distillkit_mlflow.process import LINGER, NOTE
from distillkit_mlflow.sync import Sync, lock
from distillkit_mlflow.uri import describe

PAUSE = 0.5
"""The least seconds between two reads of the folder."""

PATIENCE = 30.0
"""The most seconds between two attempts."""


def main() -> int:
    """Send until the run has ended. Returns 0 if the store has everything."""
    # The process ends when its input does, at most a minute later. Clusters signal all processes of a job at once.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # MLflow prints links to stdout.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    # MLflow takes the tag with the program's name from sys.argv.
    _, folder, *sys.argv = sys.argv
    written: set[bool] = set()

    def tell(trouble: str) -> None:
        if bool(trouble) not in written:
            written.add(bool(trouble))
            # The run may have ended.
            with suppress(OSError):
                print(trouble.replace("\n", " "), file=output, flush=True)

    def note(text: str) -> None:
        with suppress(OSError):
            print(f"{NOTE}{text}", file=output, flush=True)

    uri = sys.stdin.readline().rstrip("\n")
    sync = Sync(uri, Path(folder), tell, note)

    def go_on() -> None:
        tell("")
        files.news.set()

    runs = Lane(sync.send_runs, go_on, lambda error: tell(describe(uri, error)))
    files = Lane(sync.send_files, lambda: None, lambda error: tell(f"pictures and files: {describe(uri, error)}"))
    beside = threading.Thread(target=files.ship, daemon=True)
    threading.Thread(target=_listen, args=(runs, files), daemon=True).start()
    with lock(Path(folder)).acquire():
        beside.start()
        runs.ship()
        # The runs must be in the store before their last files.
        files.close()
        beside.join()
    return 0 if runs.done and files.done else 1


class Lane:
    """Sends one part of a run until it has ended. Waits longer after each failure, and sends once more at the end.

    Args:
        send: sends what is new; its argument is whether the run has ended.
        succeeded: called after each success.
        failed: called after each failure.
    """

    def __init__(
        self, send: Callable[[bool], None], succeeded: Callable[[], None], failed: Callable[[Exception], None]
    ) -> None:
        self.done = False
        """Whether everything was sent."""
        self.news = threading.Event()
        self._over = threading.Event()
        self._send, self._succeeded, self._failed = send, succeeded, failed

    def ship(self) -> None:
        """Send until the run has ended."""
        pause, last = PAUSE, False
        while not last:
            self.news.clear()
            last = self._over.is_set()
            try:
                self._send(last)
            except Exception as error:
                self._failed(error)
                pause = min(2 * pause, PATIENCE)
                self._over.wait(pause)
            else:
                self.done = last
                self._succeeded()
                pause = PAUSE
                if not last:
                    self._over.wait(pause)
                    self.news.wait()

    def close(self) -> None:
        """Tell it that the run has ended."""
        self._over.set()
        self.news.set()


def _listen(runs: Lane, files: Lane) -> None:
    for _ in sys.stdin:
        runs.news.set()
        files.news.set()
    runs.close()
    threading.Event().wait(LINGER)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
