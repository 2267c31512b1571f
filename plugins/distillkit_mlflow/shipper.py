"""The process that sends a run to MLflow while the run goes on: `python -m distillkit_mlflow.shipper FOLDER`.

It is a separate process, because importing MLflow takes seconds, and a thread that hangs could not be left behind. Its
input has the store's URI, then a line whenever there is something new, and ends when the run ends. It writes an empty
line to its output when it is ready, and a line for its first problem.
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
from distillkit_mlflow.process import LINGER
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
    written: set[bool] = set()

    def tell(trouble: str) -> None:
        if bool(trouble) not in written:
            written.add(bool(trouble))
            # The run may have ended.
            with suppress(OSError):
                print(trouble.replace("\n", " "), file=output, flush=True)

    folder, uri = Path(sys.argv[1]), sys.stdin.readline().rstrip("\n")
    news, over = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(news, over), daemon=True).start()
    with lock(folder).acquire():
        return ship(Sync(uri, folder, tell), news, over, tell)


def ship(sync: Sync, news: threading.Event, over: threading.Event, tell: Callable[[str], None]) -> int:
    """Send what comes, until it is over; after a failure wait longer and longer, and send once more at the end."""
    pause = PAUSE
    while True:
        news.clear()
        last = over.is_set()
        try:
            sync.send(last)
        except Exception as error:
            tell(describe(sync.uri, error))
            if last:
                return 1
            pause = min(2 * pause, PATIENCE)
            over.wait(pause)
        else:
            if last:
                return 0
            tell("")
            pause = PAUSE
            over.wait(pause)
            news.wait()


def _listen(news: threading.Event, over: threading.Event) -> None:
    for _ in sys.stdin:
        news.set()
    over.set()
    news.set()
    threading.Event().wait(LINGER)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
