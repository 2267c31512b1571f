"""Writes the journal and the curves, and checks the updates for divergence.

Both files only grow during a run. When it is resumed, they are truncated to the position of the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from distillkit import distributed
from distillkit.config import RunTable
from distillkit.errors import DistillkitError
from distillkit.files import flush, open_in_place

FIRST = 20
"""Updates at the beginning of a run with which later ones are compared."""

ROLLBACKS = 5
"""Rollbacks before a run stops."""

SKIPS = 50
"""Skipped updates in a row before a run stops."""

NAMES = {"loss": "the loss", "x0_rms": "the root mean square of x̂", "critic_loss": "the critic's loss"}
FLOORS = {"loss": 0.0, "x0_rms": 1.0, "critic_loss": 0.0}
"""The least values to compare with. x̂ is small at high noise, which may be all that the first updates see."""
LIMITS = {"loss": "loss_limit", "x0_rms": "x0_limit", "critic_loss": "loss_limit"}
CRITICS = "the run has diverged; lower critic.optimizer.learning_rate"


class Diverged(DistillkitError):
    """The run has diverged."""


class DivergenceGuard:
    """Checks the lines of the journal, in order.

    Args:
        limits: the `[run]` table.
    """

    def __init__(self, limits: RunTable) -> None:
        self._limits = {key: float(getattr(limits, name)) for key, name in LIMITS.items()}
        self._first: dict[str, list[float]] = {key: [] for key in self._limits}
        self.skips = limits.on_divergence == "skip"
        """Whether updates that are not finite are skipped."""
        self._skipped = 0

    def check(self, line: dict[str, Any]) -> None:
        """Check an update's line.

        Raises:
            Diverged: the loss or the gradient's norm, of the student or of a critic, is not finite and the update was
                not skipped; too many updates in a row were skipped; or a loss or the rms of x̂ is more than
                `run.loss_limit` or `run.x0_limit` times its largest value in the first updates.
        """
        where = f"update {line['update']}"
        self._skipped = self._skipped + 1 if line.get("skipped") else 0
        if 0 < self._skipped <= SKIPS:
            return
        advice = f"the run has diverged; lower optimizer.learning_rate (it was {line['learning_rate']:.2g} there)"
        if self._skipped:
            raise Diverged(f"{where}: this update and the {SKIPS} before it are not finite: {advice}")
        if not isfinite(line["loss"] + line["grad_norm"] + line["x0_rms"]):
            raise Diverged(f"{where}: the loss is {line['loss']} and the gradient's norm {line['grad_norm']}: {advice}")
        if not isfinite(line.get("critic_loss", 0.0) + line.get("critic_grad_norm", 0.0)):
            raise Diverged(
                f"{where}: the critic's loss is {line['critic_loss']} and its gradient's norm "
                f"{line['critic_grad_norm']}: {CRITICS}"
            )
        for key, limit in self._limits.items():
            if key not in line:
                continue
            first = self._first[key]
            if len(first) < FIRST:
                first.append(line[key])
            elif line[key] > limit * max(*first, FLOORS[key]):
                raise Diverged(
                    f"{where}: {NAMES[key]} is {line[key]:.3g}, more than {limit:g} times what it was in the first "
                    f"{FIRST} updates ({max(first):.3g} at most): {CRITICS if key == 'critic_loss' else advice}, or "
                    f"raise run.{LIMITS[key]}"
                )


@dataclass(frozen=True)
class Line:
    """A line of the journal, before it is written.

    Attributes:
        values: the values that are known on the host.
        scalars: the values that may still be on the device, as tensors of one element.
        levels: by number of steps (see `Source.levels`), the sum of its samples' losses and their number, [2]. The line
            gets their mean, as "loss/4".
    """

    values: dict[str, Any]
    scalars: Mapping[str, torch.Tensor]
    levels: Mapping[int, torch.Tensor] = field(default_factory=dict)


class Journal:
    """journal.jsonl: one line per update. Lines are read from the device together, so that no update waits for it.

    Args:
        path: the file.
        guard: checks each line.
        updates: number of existing lines to keep; later ones are deleted.
        check: called in the main process before each write, and raises if the run must not write.

    Raises:
        DistillkitError: the file has fewer than `updates` lines.
    """

    def __init__(
        self, path: Path, guard: DivergenceGuard, updates: int = 0, check: Callable[[], None] = lambda: None
    ) -> None:
        self._path = path
        self._guard = guard
        self._check = check

        def cut() -> None:
            check()
            keep_lines(path, updates)

        distributed.on_main_process(cut, path)
        kept = path.read_text(encoding="utf-8").splitlines()[:updates]
        if len(kept) < updates:
            raise DistillkitError(
                f"{path}: has {len(kept)} complete lines, but the checkpoint was written after update {updates}: "
                "restore the file from a backup, or delete the checkpoints of later updates"
            )
        for line in kept:
            guard.check(json.loads(line))

    def write(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """Write lines, at least one. Collective.

        Returns:
            The lines as they are in the file.

        Raises:
            Diverged: the run has diverged. The lines before are written.
        """
        found = [torch.cat([torch.stack([*line.scalars.values()]), *line.levels.values()]) for line in lines]
        rows = distributed.all_mean(torch.stack(found).double())
        full = [self._filled(line, row) for line, row in zip(lines, rows.tolist(), strict=True)]
        good: list[dict[str, Any]] = []
        try:
            for line in full:
                self._guard.check(line)
                good.append(line)
        finally:
            distributed.on_main_process(lambda: self._append(good), self._path)
        return full

    def _filled(self, line: Line, scalars: list[float]) -> dict[str, Any]:
        """The complete line. That of a skipped update has "skipped", and null for values that are not finite."""
        read = dict(zip(line.scalars, scalars, strict=False))
        rest = scalars[len(line.scalars) :]
        # Sums and numbers are means over the processes, and their quotient is the mean over all samples.
        read |= {
            f"loss/{level}": total / count
            for level, total, count in zip(line.levels, rest[::2], rest[1::2], strict=True)
            if count
        }
        if read.pop("made") or not self._guard.skips:
            return line.values | read
        return (
            line.values | {key: value if isfinite(value) else None for key, value in read.items()} | {"skipped": True}
        )

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        self._check()
        with open_in_place(self._path, "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def sync(self) -> None:
        """Flush the file to the disk. Collective."""

        def sync() -> None:
            self._check()
            flush(self._path)

        distributed.on_main_process(sync, self._path)


def keep_lines(path: Path, lines: int) -> None:
    """Truncate a file, which is created if there is none, after its first lines. A line without an end is removed."""
    with open_in_place(path, "ab+") as file:
        file.seek(0)
        kept = [line for _, line in zip(range(lines), file, strict=False) if line.endswith(b"\n")]
        file.truncate(sum(map(len, kept)))


class Curves:
    """curves.jsonl: one line per evaluation during the run (the paper's Figure 3).

    Args:
        path: the file; the first evaluation creates it.
        evaluated: existing lines are kept up to this update, and later ones deleted.
    """

    def __init__(self, path: Path, evaluated: int = 0) -> None:
        self._path = path

        def cut() -> None:
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                keep_lines(path, sum(json.loads(line)["update"] <= evaluated for line in lines if line[-1] == "\n"))

        distributed.on_main_process(cut, path)

    def add(self, update: int, scores: Mapping[str, float]) -> None:
        """Add an evaluation after an update, with its scores by name ("fd-fashion/steps-4")."""

        def append() -> None:
            with open_in_place(self._path, "a") as file:
                file.write(json.dumps({"update": update, "scores": {**scores}}) + "\n")
            flush(self._path)

        distributed.on_main_process(append, self._path)
