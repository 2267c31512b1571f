"""The command line. Each command is in a file of its own, which is imported when the command is called."""

from __future__ import annotations

import os
import signal
import sys

from distillkit.lazy import lazy_imports

with lazy_imports():
    from distillkit import distributed
    from distillkit.cli.group import cli
    from distillkit.errors import terminate


def main() -> None:
    """The `distillkit` command."""
    signal.signal(signal.SIGTERM, terminate)
    try:
        cli(prog_name="distillkit")
    except SystemExit as end:
        if distributed.world_size() == 1:
            raise
        # Not by way of the interpreter's end, at which threads of torch's may be running, and abort it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
