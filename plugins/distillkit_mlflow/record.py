"""A run's own record of what its tracker was told: tracking.jsonl, and the pictures in tracking/.

One line of JSON for each event, written before anything is sent anywhere. Every line has the `event` and its `time`
(milliseconds):

    start    id, name, experiment, tags, params, uri, store, nested   the run, without credentials
    resume                                                            it goes on
    metrics  update, values
    scores   rows
    image    key, step, file
    file     path
    finish   status
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch

FILE = "tracking.jsonl"
PICTURES = "tracking"


class Record:
    """Writes the record. What a resumed run says a second time is left out: it repeats its updates exactly.

    Args:
        folder: the run's. An earlier record in it is gone on with.

    Raises:
        OSError: as from every method: it cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._points: set[tuple[str, int]] = set()
        self._images: set[tuple[str, int]] = set()
        self._update = 0
        self.events, whole = read(self._path)
        if self._path.is_file() and self._path.stat().st_size > whole:
            # The run was killed while it wrote the last line.
            os.truncate(self._path, whole)
        for event in self.events:
            if event["event"] == "metrics":
                self._points |= {(key, event["update"]) for key in event["values"]}
                self._update = max(self._update, event["update"])
            elif event["event"] == "image":
                self._images.add((event["key"], event["step"]))

    def add(self, event: str, **content: Any) -> None:
        """Write a line whole or not at all."""
        line = json.dumps({"event": event, "time": int(time.time() * 1000), **content}) + "\n"
        data = line.encode()
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            if file.write(data) < len(data):
                os.truncate(self._path, end)
                raise OSError(f"{self._path}: no space is left")

    def add_metrics(self, metrics: Mapping[str, float], update: int) -> None:
        """The points that are not there yet."""
        self._update = update
        new = {key: float(value) for key, value in metrics.items() if (key, update) not in self._points}
        if new:
            self.add("metrics", update=update, values=new)
            self._points |= {(key, update) for key in new}

    def add_scores(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of scores.json; as points, they belong to the newest update."""
        points = {f"{row['model']}/{row['metric']}/steps-{row['steps']}": row["value"] for row in rows}
        self.add_metrics(points, self._update)
        self.add("scores", rows=[*rows])

    def add_image(self, key: str, image: torch.Tensor, step: int) -> None:
        """A picture, uint8 [H, W, 3], if it is not there yet."""
        if (key, step) in self._images:
            return

        file = self._folder / PICTURES / f"{key.replace('/', '~')}-{step:06d}.png"
        file.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(image.cpu().numpy()).save(file)
        self.add("image", key=key, step=step, file=str(file.relative_to(self._folder)))
        self._images.add((key, step))

    def add_file(self, path: Path) -> None:
        """A file, which is read when it is sent."""
        inside = path.is_relative_to(self._folder)
        self.add("file", path=str(path.relative_to(self._folder) if inside else path.absolute()))


def read(path: Path, position: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The events after a position in a record, as far as they are written whole, and the position behind them."""
    if not path.is_file():
        return [], position
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], position + len(whole)
