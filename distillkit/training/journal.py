"""journal.jsonl: one line per update, and the truth about the run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from distillkit import distributed
from distillkit.errors import DistillkitError
from distillkit.training.divergence import Watch
from distillkit.training.files import flush, keep_lines
from distillkit.training.together import on_first


class Journal:
    """Collects updates as tensors, and reads and writes them together, so that an update waits for no device.

    Args:
        path: the file.
        watch: tells whether the run has diverged.
        updates: how many lines of an earlier run to keep.

    Raises:
        DistillkitError: it has fewer.
    """

    def __init__(self, path: Path, watch: Watch, updates: int = 0) -> None:
        self._path = path
        self._watch = watch
        self._waiting: list[tuple[dict[str, Any], Mapping[str, torch.Tensor]]] = []

        def cut() -> None:
            path.touch()
            keep_lines(path, updates)

        on_first(cut, path)
        kept = path.read_text(encoding="utf-8").splitlines()[:updates]
        if len(kept) < updates:
            raise DistillkitError(
                f"{path}: has {len(kept)} whole lines, and the checkpoint was made after update {updates}: put the "
                "file back from a copy, or delete the checkpoints of later updates than the journal has"
            )
        for line in kept:
            watch.see(json.loads(line))

    def add(self, line: dict[str, Any], found: Mapping[str, torch.Tensor]) -> None:
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
        values = distributed.all_mean(
            torch.stack([torch.stack([*scalars.values()]) for scalars in found]).double()
        ).tolist()
        self._waiting.clear()
        full = [self._line(line, scalars, row) for line, scalars, row in zip(lines, found, values, strict=True)]
        good: list[dict[str, Any]] = []
        try:
            for line in full:
                self._watch.see(line)
                good.append(line)
        finally:
            on_first(lambda: self._append(good), self._path)
        return full

    def _line(self, line: dict[str, Any], scalars: Iterable[str], values: list[float]) -> dict[str, Any]:
        """One line, whole. An update that was left out says so, and has no number that is not one."""
        read = dict(zip(scalars, values, strict=True))
        if read.pop("made") or not self._watch.skips:
            return line | read
        return line | {key: value if isfinite(value) else None for key, value in read.items()} | {"skipped": True}

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def sync(self) -> None:
        """Have the disk take what is written."""
        on_first(lambda: flush(self._path), self._path)
