"""The process that sends a run to MLflow while the run goes on: `python -m distillkit_mlflow.shipper FOLDER`.

It is a process, as MLflow takes the interpreter seconds to import, and may hang where no thread can be left behind. On
its input it gets the store's URI, then a line whenever there is something new, and the end when the run is over. On its
output it writes an empty line when it is ready, and a line when it first has trouble.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distillkit_mlflow.process import LINGER
from distillkit_mlflow.sync import Sync, lock
from distillkit_mlflow.uri import describe

PAUSE = 0.5
"""Seconds between two looks at the folder, at least."""

PATIENCE = 30.0
"""Seconds between attempts, at most."""


def main() -> int:
    """Send until the run is over. 0 if the store has everything."""
    # It ends when its input does, a minute later at most. A cluster signals all processes of a job at once.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # MLflow prints links.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    written: set[bool] = set()

    def tell(trouble: str) -> None:
        if bool(trouble) not in written:
            written.add(bool(trouble))
            # The run may be gone.
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
