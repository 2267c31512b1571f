"""A run's folder: what is in it, and who may write to it."""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import tomli_w

from distillkit.errors import DistillkitError


class RunFolder:
    """Paths of a run's files.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.journal = path / "journal.jsonl"
        self.curves = path / "curves.jsonl"
        self.scores = path / "scores.json"
        self.checkpoints = path / "checkpoints"
        self.pipeline = path / "pipeline"
        self.lora = path / "lora"
        self.samples = path / "samples"
        self.best = path / "best.safetensors"

    def check_free(self) -> None:
        """A new run may begin here.

        Raises:
            DistillkitError: the folder holds something already, or cannot be read.
        """
        try:
            taken = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        except OSError as error:
            raise DistillkitError(f"{self.path}: cannot be looked into ({error.strerror})") from None
        if taken:
            holds = "a run" if self.config.exists() else "something that is not a run"
            raise DistillkitError(
                f"{self.path}: already holds {holds}; nothing was overwritten. Give another folder with --output, "
                f"another run.name{', or go on with --resume' if self.config.exists() else ''}"
            )

    def create(self, tables: dict[str, Any]) -> None:
        """Begin a new run here: make the folder and write the resolved config, `tables`.

        Raises:
            DistillkitError: the folder cannot be written.
        """
        try:
            self.samples.mkdir(parents=True)
            write_text(self.config, tomli_w.dumps(tables))
        except OSError as error:
            raise DistillkitError(f"{self.path}: cannot be written ({error.strerror})") from None

    def discard(self) -> None:
        """Undo `create`, for a run that could not begin."""
        shutil.rmtree(self.path, ignore_errors=True)

    def open(self, tables: dict[str, Any], ignore: Collection[str] = ()) -> list[dict[str, Any]]:
        """Go on with the run that is here.

        Args:
            tables: the resolved config.
            ignore: tables that may differ.

        Returns:
            the teacher's scores, if they were written.

        Raises:
            DistillkitError: there is none, or it was made from another config.
        """
        if not self.config.is_file():
            raise DistillkitError(f"{self.path}: holds no run to resume (no config.toml)")
        before = tomllib.loads(self.config.read_text(encoding="utf-8"))
        changed = sorted(key for key in _differences(before, tables) if key.split(".")[0] not in ignore)
        if changed:
            raise DistillkitError(
                f"{self.path}: the config has changed since the run began, in {', '.join(changed)}; "
                f"resume with the run's own: distillkit run {self.config} --output {self.path} --resume"
            )
        rows = json.loads(self.scores.read_text(encoding="utf-8")) if self.scores.is_file() else []
        return [row for row in rows if row["model"] == "teacher"]

    def write_scores(self, rows: list[dict[str, Any]]) -> None:
        """Write scores.json."""
        write_text(self.scores, json.dumps(rows, indent=1) + "\n")


def _differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """The TOML keys at which two configs differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before.keys() | now.keys():
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _differences(one, other, f"{key}[{i}]")
    elif before != now:
        yield key


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}.partial")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
