"""Reads a run's folder as MLflow shows it: parameters, points of curves, pictures and files.

The run writes config.toml, journal.jsonl, curves.jsonl, scores.json, best.safetensors and samples/. The tracker's
`Record` has what these files do not contain.
"""

from __future__ import annotations

import json
import re
import tomllib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from safetensors import safe_open

from distillkit.errors import redact

MAX_LENGTH = 6000
"""Characters of a parameter's value that MLflow keeps."""

MEANS = ("loss", "grad_norm", "critic_loss")
"""What a point of a curve has the mean of, beside "loss/…" and "gradient/…"."""

BLOCK = 2**20
"""The most bytes of a file that are read at once; longer than any line."""


def read_config(folder: Path) -> dict[str, Any]:
    """The tables of a run's config.toml."""
    return tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))


class Point(NamedTuple):
    """A point of a curve. MLflow identifies points by all four fields. `time` is in ms since the epoch."""

    key: str
    value: float
    step: int
    time: int


class Picture(NamedTuple):
    """A PNG of the series `key` over `step`."""

    path: Path
    key: str
    step: int


class RunReader:
    """Reads the updates and scores of a run incrementally.

    A run that is resumed or rolled back rewrites the ends of its files. All points are then returned again.

    Args:
        folder: the run's folder.
        started: the time of the start of the run, in ms since the epoch.
    """

    def __init__(self, folder: Path, started: int) -> None:
        self._folder = folder
        self._started = started
        self._journal = _Lines(folder / "journal.jsonl")
        self._curves = _Lines(folder / "curves.jsonl")
        # The time of each update: a run has millions.
        self._times = array("q")
        self._group: list[dict[str, Any]] = []
        self.config = read_config(folder)

    @property
    def newest(self) -> int:
        """The time of the newest update, in ms since the epoch."""
        return self._times[-1] if self._times else self._started

    def points(self, over: bool, finished: bool) -> Iterator[Point]:
        """The points that are new since the last call. The updates of phases are in the phases' own folders.

        Every `run.log_every` updates there are the means of their losses, also by level, and of their gradient norms.
        The updates after the last such point have one once the run is over, however it ended; scores are there once it
        is finished.
        """
        if "phase" not in self.config:
            # Before the journal, so that the journal has the updates of all these evaluations.
            evaluations = list(self._curves.read())
            every = self.config["run"].get("log_every", 1)
            for line in self._journal.read():
                update = line["update"]
                if update == 1:
                    self._times, self._group = array("q"), []
                self._times.append(self._started + round(1000 * line["seconds"]))
                self._group.append(line)
                if update % every == 0:
                    yield from self._means()
            for line in evaluations:
                for name, value in line["scores"].items():
                    yield self._point(f"during/{name}", value, line["update"])
        if over and self._group:
            yield from self._means()
        if finished:
            yield from self._scores()

    def _means(self) -> Iterator[Point]:
        newest = self._group[-1]
        made = [line for line in self._group if not line.get("skipped")]
        # Not every update has a sample of each level.
        means = {key for line in made for key in line if key in MEANS or key.startswith(("loss/", "gradient/"))}
        values = {key: fmean(line[key] for line in made if key in line) for key in sorted(means)}
        values |= {key: newest[key] for key in ("learning_rate", "steps", "seconds", "rollbacks") if key in newest}
        self._group = []
        for key, value in values.items():
            yield self._point(key, value, newest["update"])

    def _scores(self) -> Iterator[Point]:
        if (scores := self._folder / "scores.json").is_file():
            for row in json.loads(scores.read_text(encoding="utf-8")):
                # Of a teacher that was sampled with several solvers, the best one.
                if row.get("best", True):
                    key = f"{row['model']}/{row['metric']}/steps-{row['steps']}"
                    yield self._point(key, row["value"], len(self._times))
        if (best := self._folder / "best.safetensors").is_file():
            with safe_open(best, "np") as file:
                metadata = file.metadata()
            yield self._point(f"best/{metadata['score']}", float(metadata["value"]), int(metadata["update"]))

    def _point(self, key: str, value: float, update: int) -> Point:
        time = self._times[update - 1] if 0 < update <= len(self._times) else self._started
        return Point(key, float(value), update, time)


class PictureReader:
    """Finds the sample sheets of a run incrementally. Those of phases are in the folders of the phases.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._samples = folder / "samples"
        self._curves = _Lines(folder / "curves.jsonl")
        self._found: set[str] = set()
        self._has_phases = "phase" in read_config(folder)

    def new(self) -> Iterator[Picture]:
        """The sheets of the evaluations since the last call, without those that were returned before.

        Does not list the folder, which may contain many sheets.
        """
        for line in () if self._has_phases else self._curves.read():
            for steps in sorted({int(name.rpartition("/steps-")[2]) for name in line["scores"]}):
                path = self._samples / f"during/update-{line['update']:06d}-steps-{steps:03d}.png"
                if path.name not in self._found and path.is_file():
                    self._found.add(path.name)
                    yield _during(path)

    def all(self, finished: bool) -> Iterator[Picture]:
        """All sheets, with the final ones if the run is finished."""
        if self._has_phases:
            return
        yield from map(_during, sorted(self._samples.glob("during/*.png")))
        for path in sorted(self._samples.glob("*.png")) if finished else ():
            yield Picture(path, "samples", int(path.stem.removeprefix("steps-")))


def _during(path: Path) -> Picture:
    update, steps = map(int, re.findall(r"\d+", path.name))
    return Picture(path, f"during/steps-{steps}", update)


class _Lines:
    """Reads a growing file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._last = b""

    def read(self) -> Iterator[dict[str, Any]]:
        """The complete lines that are new since the last call; all lines if the file was rewritten."""
        while lines := self._block():
            yield from map(json.loads, lines)

    def _block(self) -> list[bytes]:
        """The next lines. The run may rewrite the file between two blocks."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position - len(self._last))
            if file.read(len(self._last)) != self._last:
                file.seek(0)
                self._position, self._last = 0, b""
            data = file.read(BLOCK)
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        if lines:
            self._position, self._last = self._position + sum(map(len, lines)), lines[-1]
        return lines


def flatten(tables: Any, prefix: str = "") -> dict[str, str]:
    """Nested tables as `optimizer.learning_rate`; lists of tables as `loss.0.type`.

    Values are truncated to 6000 characters, and credentials in URIs are replaced by `***`.
    """
    if isinstance(tables, list) and tables and all(isinstance(item, Mapping) for item in tables):
        tables = {str(i): item for i, item in enumerate(tables)}
    if not isinstance(tables, Mapping):
        return {prefix: cut(redact(str(tables)))}
    parts = [flatten(item, f"{prefix}.{key}" if prefix else key) for key, item in tables.items()]
    return {key: value for part in parts for key, value in part.items()}


def cut(text: str) -> str:
    """Truncate a text to 6000 characters; a truncated text ends in …"""
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"
