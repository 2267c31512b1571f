"""Faults at the n-th write of a process: it is killed, gets signals, or the disk is full.

The code under test takes no part: Python reports files that are opened, renamed and removed (`sys.addaudithook`), and
two functions are wrapped, os.fsync and the one with which safetensors writes.
"""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ASIDE = re.compile(r"\.[a-z0-9_]{8}\.partial")
"""What differs between the names of folders in which something is written aside."""
KILL = (signal.SIGKILL,)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REPORTED = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "shutil.rmtree": 1}
"""The events besides open, and how many paths each names."""


@dataclass(frozen=True)
class Fault:
    """What happens, and when.

    Attributes:
        number: at which event, from 1, of those that `at` is a part of. 0: at none.
        at: a part of an event, as in "open checkpoints/.update-000002.partial/manifest.json"; a folder
            that is written aside has no random part in its name here.
        signals: sent to the process itself, in their order.
        full: the disk is full from then on.
        limit: largest size of a file, in bytes; what is written beyond it fails.
    """

    number: int = 0
    at: str = ""
    signals: tuple[int, ...] = ()
    full: bool = False
    limit: int | None = None


NO_FAULT = Fault()


def one_of_each(events: Sequence[str], seed: int) -> list[int]:
    """The numbers, from 1, of one event of each kind, in their order.

    Events that differ only in an update's or a phase's number are of one kind; the seed chooses among them.
    """
    kinds: dict[str, list[int]] = {}
    for number, event in enumerate(events, 1):
        kinds.setdefault(re.sub(r"\d+", "0", event), []).append(number)
    return sorted(map(random.Random(seed).choice, kinds.values()))


class Watch:
    """Logs what this process writes below a folder, and causes the fault."""

    def __init__(self, folder: Path, fault: Fault, log: Path) -> None:
        self._folder = f"{folder}/"
        self._fault = fault
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._count = 0
        self._full = False

    def install(self) -> None:
        """Watch from now on."""
        import safetensors.torch

        sync, serialize = os.fsync, safetensors.torch.serialize_file

        def fsync(handle: int) -> None:
            self.see("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            sync(handle)

        def serialize_file(tensors: Any, filename: Any, metadata: Any = None) -> None:
            self.see("save", filename)
            serialize(tensors, filename, metadata=metadata)
            self.see("saved", filename)

        os.fsync = fsync
        safetensors.torch.serialize_file = serialize_file
        sys.addaudithook(self._hear)
        if self._fault.limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._fault.limit, self._fault.limit))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & WRITING:
            self.see("open", arguments[0])
        elif event in REPORTED:
            self.see(event.partition(".")[2], *arguments[: REPORTED[event]])

    def see(self, what: str, *paths: Any) -> None:
        """Log an event, and cause the fault if it is due."""
        names = [os.path.abspath(os.fsdecode(path)) for path in paths if not isinstance(path, int)]
        inside = [name.removeprefix(self._folder) for name in names if name.startswith(self._folder)]
        if not inside:
            return
        event = " ".join([what, *(ASIDE.sub(".partial", name) for name in inside)])
        os.write(self._log, f"{event}\n".encode())
        if self._full and what in ("open", "save", "mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._fault.at in event:
            self._count += 1
            if self._count == self._fault.number:
                self._strike()

    def _strike(self) -> None:
        for number in self._fault.signals:
            os.kill(os.getpid(), number)
        if self._fault.full:
            self._full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
