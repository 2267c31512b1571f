"""Hostfiles: the machines of a run, one a line, as DeepSpeed's launcher reads them too."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from distillkit.errors import DistillkitError

LINE = re.compile(r"(\S+)\s+slots=(\d+)")


def read_hosts(file: Path) -> dict[str, int]:
    """Name -> number of processes, in the file's order. Empty lines and what follows a # are left out.

    Raises:
        DistillkitError: it cannot be read, or a line is of another form.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DistillkitError(f"{file}: cannot be read ({getattr(error, 'strerror', 'it is no text')})") from None
    hosts: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not (text := line.split("#")[0].strip()):
            continue
        found = LINE.fullmatch(text)
        if found is None or found[1] in hosts or found[2] == "0":
            raise DistillkitError(
                f"{file}: line {number}: expected a machine that is not named above, and its number of processes, as "
                f"in 'worker-1 slots=8' (got '{text}')"
            )
        hosts[found[1]] = int(found[2])
    if not hosts:
        raise DistillkitError(f"{file}: names no machine; expected lines as in 'worker-1 slots=8'")
    return hosts


def find_self(hosts: dict[str, int], file: Path) -> int:
    """Which of the hosts this machine is, by its name.

    Raises:
        DistillkitError: none of them.
    """
    name = socket.gethostname()
    for i, host in enumerate(hosts):
        if host in (name, name.split(".")[0], socket.getfqdn()):
            return i
    raise DistillkitError(f"{file}: does not name this machine, {name}; give its place in the file with --node-rank")
