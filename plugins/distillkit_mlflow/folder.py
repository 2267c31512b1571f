"""Reads a run's folder as MLflow shows it: parameters, points of curves, pictures and files.

The run writes config.toml, journal.jsonl, curves.jsonl, scores.json, best.safetensors and samples/. The tracker adds
tracking.json, the `Record`, with what the other files do not contain.
"""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple
from uuid import uuid4

from safetensors import safe_open

from distillkit.errors import redact
from distillkit.files import write_text

MAX_LENGTH = 6000
"""Characters of a parameter's value that MLflow keeps."""


@dataclass
class Record:
    """tracking.json: what the tracker knows of a run besides its files. It contains no credentials.

    Attributes:
        store: the store that the config names, with an absolute path; None for a run made with another tracker.
        plan: steps, updates and all evaluations of each stage; None for a run made with another tracker.
        id: identifies the run in every store, as a tag.
        started: when the run began, in ms since the epoch.
        status: how the run ended ("finished", "failed" or "killed"); None while it is running, and if it was killed
            before it could be recorded.
        ended: when the run ended, in ms since the epoch.
    """

    store: str | None
    plan: list[dict[str, int]] | None
    id: str
    started: int
    status: str | None = None
    ended: int | None = None


def read_record(folder: Path) -> Record | None:
    """A run's record; None if there is none."""
    path = folder / "tracking.json"
    return Record(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def begin(folder: Path, store: str | None = None, plan: list[dict[str, int]] | None = None) -> None:
    """Write the record of a run that is started or resumed."""
    record = read_record(folder)
    if record is None:
        record = Record(store, plan, str(uuid4()), round((folder / "config.toml").stat().st_mtime * 1000))
    record.status = record.ended = None
    write_json(folder / "tracking.json", asdict(record))


def end(folder: Path, status: str) -> None:
    """Record how a run ended, if it has a record."""
    if (record := read_record(folder)) is not None:
        record.status, record.ended = status, round(time.time() * 1000)
        write_json(folder / "tracking.json", asdict(record))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The tables of a run's config.toml."""
    return tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))


def tracker_table(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `[tracker]` table of a run's config; with several phases, that of the first one."""
    table: dict[str, Any] = config.get("phase", [config])[0].get("tracker", {})
    return table


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
    """Reads the folder of a run incrementally.

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
        self._times: dict[int, int] = {}
        self._group: list[dict[str, Any]] = []
        self.config = read_config(folder)

    @property
    def newest(self) -> int:
        """The time of the newest update, in ms since the epoch."""
        return max(self._times.values(), default=self._started)

    def points(self, over: bool, finished: bool) -> Iterator[Point]:
        """The points that are new since the last call. The updates of phases are in the phases' own folders.

        Every `run.log_every` updates there are the means of their losses and gradient norms. The updates after the last
        such point have one once the run is over, however it ended; scores are there once it is finished.
        """
        if "phase" not in self.config:
            # Before the journal, so that the journal has the updates of all these evaluations.
            evaluations = self._curves.read()
            every = self.config["run"].get("log_every", 1)
            for line in self._journal.read():
                update = line["update"]
                if update == 1:
                    self._times, self._group = {}, []
                self._times[update] = self._started + round(1000 * line["seconds"])
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
        values = {key: fmean(line[key] for line in made) for key in ("loss", "grad_norm") if made}
        values |= {key: newest[key] for key in ("learning_rate", "steps", "seconds", "rollbacks") if key in newest}
        self._group = []
        for key, value in values.items():
            yield self._point(key, value, newest["update"])

    def _scores(self) -> Iterator[Point]:
        if (scores := self._folder / "scores.json").is_file():
            for row in json.loads(scores.read_text(encoding="utf-8")):
                key = f"{row['model']}/{row['metric']}/steps-{row['steps']}"
                yield self._point(key, row["value"], max(self._times, default=0))
        if (best := self._folder / "best.safetensors").is_file():
            with safe_open(best, "np") as file:
                metadata = file.metadata()
            yield self._point(f"best/{metadata['score']}", float(metadata["value"]), int(metadata["update"]))

    def _point(self, key: str, value: float, update: int) -> Point:
        return Point(key, float(value), update, self._times.get(update, self._started))

    def pictures(self, finished: bool) -> Iterator[Picture]:
        """The sample sheets: those drawn during the run, and the final ones once it is finished."""
        if "phase" in self.config:
            return
        for path in sorted(self._folder.glob("samples/during/*.png")):
            update, steps = map(int, re.findall(r"\d+", path.name))
            yield Picture(path, f"during/steps-{steps}", update)
        for path in sorted(self._folder.glob("samples/*.png")) if finished else ():
            yield Picture(path, "samples", int(path.stem.removeprefix("steps-")))


class _Lines:
    """Reads a growing file of JSON lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._last = b""

    def read(self) -> list[dict[str, Any]]:
        """The complete lines that are new since the last call; all lines if the file was rewritten."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position - len(self._last))
            if file.read(len(self._last)) != self._last:
                file.seek(0)
                self._position, self._last = 0, b""
            data = file.read()
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        if lines:
            self._position, self._last = self._position + sum(map(len, lines)), lines[-1]
        return [json.loads(line) for line in lines]


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
