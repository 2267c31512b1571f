"""The process that sends a run's record to MLflow while the run goes on: `python -m distillkit_mlflow.shipper FOLDER`.

It is a process, as MLflow may hang where no thread can be left behind, and takes the interpreter seconds to import. On
its input it gets the store's URI, and then any line, or the end, when the run is over. On its output it says, in lines
of JSON, once that it is "ready" and once what its "trouble" is.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distillkit_mlflow.delivery import Delivery
from distillkit_mlflow.lock import lock
from distillkit_mlflow.uri import describe

LOOK = 0.5
"""Seconds between looks at the record."""

PATIENCE = 30.0
"""Seconds between attempts, at most."""

LINGER = 60.0
"""Seconds after the end of the run in which to finish."""


def main() -> int:
    """Send until the run is over. 0 if the store has everything."""
    # Its end comes by the input, a minute after the run's at most. A cluster signals all processes of a job at once.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    # MLflow prints links.
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    told: set[str] = set()

    def say(what: str, text: str) -> None:
        if what not in told:
            told.add(what)
            # Who listens may be gone.
            with suppress(OSError):
                print(json.dumps({what: text}), file=output, flush=True)

    folder, uri = Path(sys.argv[1]), sys.stdin.readline().rstrip("\n")
    over = threading.Event()
    threading.Thread(target=_see_to_the_end, args=(over,), daemon=True).start()
    with lock(folder).acquire():
        return ship(Delivery(uri, folder, lambda text: say("trouble", text)), uri, over, say)


def ship(delivery: Delivery, uri: str, over: threading.Event, say: Callable[[str, str], None]) -> int:
    """Send what comes, until it is over; after a failure wait longer and longer, and send once more at the end."""
    pause = LOOK
    while True:
        last = over.is_set()
        try:
            delivery.send()
            if last:
                delivery.close()
                return 0
            say("ready", "")
            pause = LOOK
        except Exception as error:
            say("trouble", describe(uri, error))
            if last:
                return 1
            pause = min(2 * pause, PATIENCE)
        over.wait(pause)


def _see_to_the_end(over: threading.Event) -> None:
    sys.stdin.readline()
    over.set()
    threading.Event().wait(LINGER)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
