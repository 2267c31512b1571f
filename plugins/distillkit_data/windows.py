"""A stream in windows: what is read of it, and in which order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import torch

from distillkit.sampling import generator

Row = tuple[int, Any]
"""A row and its number in the stream, from 0."""


class Stream(Protocol):
    """Rows that are read from the beginning each time that they are iterated; an IterableDataset is one."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]:
        """Where the row after the last one is, of JSON's types."""

    def load_state_dict(self, state_dict: Any) -> None:
        """Begin there from now on; None: at the beginning."""


class Windows:
    """Gives each sample of a run a row of a stream, which is read from its beginning to its end and then again.

    The stream is read in windows of `size` rows, of which one is in memory. A window's rows are taken in a random
    order, each once. So the row of sample n depends on (seed, n) and the stream alone, and a pass takes every row once.

    Args:
        stream: it has at least one row.
        size: rows in a window.
        name: what the stream is. Places in one of another name are not used.
    """

    def __init__(self, stream: Stream, size: int, name: str) -> None:
        self._stream, self._size, self._name = stream, size, name
        self._number: int | None = None
        self._window: list[Row] = []
        self._rest: Iterator[Row] = iter(())
        # Where windows begin: the number of the first row and the stream's state, in JSON, as its user may change it.
        self._places: dict[int, str] = {}

    def pick(self, seed: int, first: int, count: int) -> list[Row]:
        """The rows of the samples `first` to `first + count - 1` of a run.

        Raises:
            Exception: what the stream raises. The next call reads the window again.
        """
        picked: list[Row] = []
        while len(picked) < count:
            sample = first + len(picked)
            window = self.window(sample)
            number, place = divmod(sample, self._size)
            order = torch.randperm(self._size, generator=generator(seed, number, "window"))
            picked += [window[i] for i in order[place : place + count - len(picked)].tolist()]
        return picked

    def window(self, sample: int) -> list[Row]:
        """The rows of the window that a sample's row is in, in the order of the stream.

        Raises:
            Exception: as `pick`.
        """
        number = sample // self._size
        if number != self._number:
            if self._number is None or number != self._number + 1:
                self._rest = self._from(number)
            # Emptied first, so that two windows are never in memory.
            self._number, self._window = None, []
            self._window = list(islice(self._rest, self._size))
            self._number = number
            self._places[number + 1] = json.dumps((self._window[-1][0] + 1, self._stream.state_dict()))
            # A checkpoint may be of the window before, if an update that began there has failed.
            self._places = {key: place for key, place in self._places.items() if key >= number - 1}
        return self._window

    def _from(self, number: int) -> Iterator[Row]:
        """The rows of a window and of those after it, without an end."""
        known = max((key for key in self._places if key <= number), default=0)
        first, state = json.loads(self._places.get(known, "[0, null]"))
        left = (number - known) * self._size
        while True:
            self._stream.load_state_dict(state)
            length = first
            for i, row in enumerate(self._stream, first):
                length = i + 1
                if left:
                    left -= 1
                else:
                    yield i, row
            # Once the length is known, whole passes are left out.
            left %= length
            first, state = 0, None

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Where the windows begin that are needed next; nothing before one was read."""
        text = json.dumps({"name": self._name, "size": self._size, "places": self._places})
        return {"places": torch.tensor(list(text.encode()), dtype=torch.uint8)} if self._places else {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Begin there. Without a place, a window is found by reading the stream from its beginning."""
        self._number, self._places = None, {}
        if "places" in state:
            known = json.loads(bytes(state["places"].tolist()))
            if (known["name"], known["size"]) == (self._name, self._size):
                self._places = {int(key): place for key, place in known["places"].items()}
