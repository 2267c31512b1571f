"""Writes run folders as runs do, line by line, for the tests of trackers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from PIL import Image

from distillkit.interfaces import RunInfo, Stage

SCORES = [
    {"model": "teacher", "steps": 4, "metric": "fd-fashion", "value": 58.5, "samples": 1000},
    {"model": "student", "steps": 4, "metric": "fd-fashion", "value": 15.25, "samples": 1000},
]


class RunFolder:
    """
    Args:
        path: the folder, which is made.
        settings: the tables of config.toml.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.toml").write_text(tomli_w.dumps(settings))

    def info(self, name: str = "first", resumed: bool = False, parent: Path | None = None) -> RunInfo:
        return RunInfo(name, self.path, plan=[Stage(4, 3, 2, 2), Stage(2, 1, 2, 2)], resumed=resumed, parent=parent)

    def update(self, update: int, **values: float | bool | None) -> None:
        """A line of the journal; the update took half a second."""
        line = {"update": update, "loss": float(update), "seconds": update / 2}
        self._append("journal.jsonl", line | {"learning_rate": 1e-5, "steps": 4, "grad_norm": 2.0} | values)

    def cut(self, updates: int) -> None:
        """Drop the journal's later lines, as a run that resumes does."""
        path = self.path / "journal.jsonl"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:updates]))

    def evaluation(self, update: int, value: float) -> None:
        """An evaluation during the run, with its sheet."""
        self.picture(f"during/update-{update:06d}-steps-004.png", update)
        self._append("curves.jsonl", {"update": update, "scores": {"fd-fashion/steps-4": value}})

    def picture(self, name: str, value: int) -> None:
        """A sheet."""
        path = self.path / "samples" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(value)).save(path)

    def end(self) -> None:
        """The last scores and sheets."""
        (self.path / "scores.json").write_text(json.dumps(SCORES))
        self.picture("steps-004.png", 200)

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        with (self.path / name).open("a") as file:
            file.write(json.dumps(line) + "\n")


def pixels(value: int) -> np.ndarray:
    """A picture, uint8 [6, 8, 3]."""
    image = np.full((6, 8, 3), value, dtype=np.uint8)
    image[0, 0] = (255, 0, 7)
    return image
