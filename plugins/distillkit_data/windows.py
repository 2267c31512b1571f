"""A stream in windows: what is read of it, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from distillkit.sampling import generator

Row = tuple[int, Any]
"""A row and its number in the stream, from 0."""


class Windows:
    """Gives each sample of a run a row of a stream, which is read from its beginning to its end and then again.

    The stream is read in windows of `size` rows, of which one is in memory. A window's rows are taken in a random
    order, each once. So the row of sample n depends on (seed, n) and the stream alone, and a pass takes every row once.

    Args:
        stream: its rows, from the first one each time that it is iterated. It has at least one.
        size: rows in a window.
    """

    def __init__(self, stream: Iterable[Any], size: int) -> None:
        self._stream, self._size = stream, size
        self._number: int | None = None
        self._window: list[Row] = []
        self._rest: Iterator[Row] = iter(())

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
                self._rest = self._from(number * self._size)
            # Emptied first, so that two windows are never in memory.
            self._number, self._window = None, []
            self._window = list(islice(self._rest, self._size))
            self._number = number
        return self._window

    def _from(self, start: int) -> Iterator[Row]:
        """The rows from the one that is `start` rows after the first, without an end."""
        while True:
            length = 0
            for i, row in enumerate(self._stream):
                length = i + 1
                if i >= start:
                    yield i, row
            # Once the length is known, whole passes are left out.
            start = max(0, start - length) % length
