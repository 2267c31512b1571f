"""journal.jsonl: one line per update, and the truth about the run."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit.errors import DistillkitError


class Journal:
    """Collects updates as tensors, and reads and writes them together, so that an update waits for no device.

    Args:
        path: the file.
        updates: how many lines of an earlier run to keep.
    """

    def __init__(self, path: Path, updates: int = 0) -> None:
        self._path = path
        self._waiting: list[tuple[dict[str, Any], Tensor, Tensor]] = []
        kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:updates] if updates else []
        path.write_text("".join(kept), encoding="utf-8")

    def add(self, line: dict[str, Any], loss: Tensor, grad_norm: Tensor) -> None:
        """Remember an update: its line without loss and gradient norm, and those as scalars."""
        self._waiting.append((line, loss.detach(), grad_norm))

    def flush(self) -> list[dict[str, Any]]:
        """Write what waits, and return it.

        Raises:
            DistillkitError: a loss or a gradient norm is not finite; only the lines before are written.
        """
        if not self._waiting:
            return []
        lines, losses, norms = zip(*self._waiting, strict=True)
        values = torch.stack([torch.stack(losses), torch.stack(norms)]).double().tolist()
        self._waiting.clear()
        full = [{**line, "loss": loss, "grad_norm": norm} for line, loss, norm in zip(lines, *values, strict=True)]
        bad = next((line for line in full if not isfinite(line["loss"] + line["grad_norm"])), None)
        good = full[: full.index(bad)] if bad else full
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in good)
        if bad:
            raise DistillkitError(
                f"update {bad['update']}: the loss is {bad['loss']} and the gradient's norm {bad['grad_norm']}: the "
                f"run has diverged; lower optimizer.learning_rate (it was {bad['learning_rate']:.2g} there)"
            )
        return full
