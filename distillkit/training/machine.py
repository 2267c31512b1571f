"""How much memory a device has."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path

import torch

from distillkit.interfaces import Engine


def memory(engine: Engine) -> float:
    """Bytes of memory of the device that an engine claims.

    Raises:
        DistillkitError: the device is not there.
    """
    engine.setup()
    if engine.device.type == "cuda":
        return torch.cuda.get_device_properties(engine.device).total_memory
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _limit())


def _limit() -> float:
    """Bytes that a container may use."""
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")
    except OSError:
        return inf
    return float(text) if text.strip() != "max" else inf
