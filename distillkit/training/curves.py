"""curves.jsonl: one line per evaluation in the middle of the run (the paper's Figure 3)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from distillkit import distributed
from distillkit.training.files import flush, keep_lines, writing


class Curves:
    """Scores over the updates.

    Args:
        path: the file. It is made with the first evaluation.
        evaluated: the update up to which an earlier run's evaluations are kept.
    """

    def __init__(self, path: Path, evaluated: int = 0) -> None:
        self._path = path
        if distributed.is_main_process() and path.is_file():
            with writing(path):
                whole = [
                    line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"
                ]
                keep_lines(path, sum(json.loads(line)["update"] <= evaluated for line in whole))

    def add(self, update: int, scores: Mapping[str, float]) -> None:
        """Write an evaluation: the update after which it was made, and its scores by name ("fd-fashion/steps-4")."""
        if not distributed.is_main_process():
            return
        with writing(self._path):
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"update": update, "scores": {**scores}}) + "\n")
            flush(self._path)
