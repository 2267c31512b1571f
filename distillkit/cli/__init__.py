"""The command line. Each command is in a file of its own, which is imported when the command is called."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from distillkit.lazy import lazy_imports

with lazy_imports():
    from distillkit import distributed
    from distillkit.cli.group import cli
    from distillkit.errors import heeded_signals, terminate

LAUNCHER = "DISTILLKIT_LAUNCHER"
"""The variable in which `distillkit launch` tells the processes that it starts its own process id."""


def main() -> None:
    """The `distillkit` command."""
    if launcher := os.environ.pop(LAUNCHER, None):
        threading.Thread(target=_die_with, args=(int(launcher),), daemon=True).start()
    for number in heeded_signals():
        if number != signal.SIGINT:
            signal.signal(number, terminate)
    try:
        cli(prog_name="distillkit")
    except SystemExit as end:
        if distributed.world_size() == 1:
            raise
        # Not by way of the interpreter's end, at which threads of torch's may be running, and abort it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


def _die_with(launcher: int) -> None:
    """Kill this process when its launcher is gone, which was killed: nobody would end it, nor see how it ends."""
    while os.getppid() == launcher:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
