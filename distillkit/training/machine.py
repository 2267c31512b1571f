"""How much memory a device has."""

from __future__ import annotations

import os

import torch

from distillkit.interfaces import Engine


def memory(engine: Engine) -> int:
    """Bytes of memory of the device that an engine claims.

    Raises:
        DistillkitError: the device is not there.
    """
    engine.setup()
    if engine.device.type == "cuda":
        return torch.cuda.get_device_properties(engine.device).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
