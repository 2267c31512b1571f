"""journal.jsonl: one line per update, and the truth about the run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit import workers
from distillkit.training.divergence import Watch


class Journal:
    """Collects updates as tensors, and reads and writes them together, so that an update waits for no device.

    Args:
        path: the file.
        watch: tells whether the run has diverged.
        updates: how many lines of an earlier run to keep.
    """

    def __init__(self, path: Path, watch: Watch, updates: int = 0) -> None:
        self._path = path
        self._watch = watch
        self._waiting: list[tuple[dict[str, Any], Mapping[str, Tensor]]] = []
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:updates] if updates else []
        for line in kept:
            watch.see(json.loads(line))
        workers.barrier()
        if workers.is_first():
            path.write_text("".join(kept), encoding="utf-8")

    def add(self, line: dict[str, Any], found: Mapping[str, Tensor]) -> None:
        """Remember an update: what is known of it, and scalars that are on the device."""
        self._waiting.append((line, found))

    def flush(self) -> list[dict[str, Any]]:
        """Write what waits, and return it.

        Raises:
            Diverged: a line says so; only the lines before it are written.
        """
        if not self._waiting:
            return []
        lines, found = zip(*self._waiting, strict=True)
        values = workers.mean(torch.stack([torch.stack([*scalars.values()]) for scalars in found]).double()).tolist()
        self._waiting.clear()
        full = [
            line | dict(zip(scalars, row, strict=True)) for line, scalars, row in zip(lines, found, values, strict=True)
        ]
        with Path(self._path if workers.is_first() else os.devnull).open("a", encoding="utf-8") as file:
            for line in full:
                self._watch.see(line)
                file.write(json.dumps(line) + "\n")
        return full
