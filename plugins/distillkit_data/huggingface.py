"""Data sets of the Hugging Face library `datasets`, an optional dependency."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Data
from distillkit_data.pictures import square, words
from distillkit_data.windows import Row, Windows

SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` writes, of a data set with splits and of one without."""


class HuggingFace(Data):
    """A data set that the library `datasets` loads: a column of pictures and, optional, one of classes or captions.

    Pictures are turned, made opaque, cut to a centred square and resized as those of `images` are. Unlike those, they
    are checked only when they are drawn, and a bad one cannot be skipped: it stops the run, which makes a checkpoint
    first.

    Without `streaming`, a data set is downloaded as a whole, and pictures are drawn at random. With it, nothing is kept
    on disk. The data set is read from its beginning to its end and then again, in windows of `buffer` pictures. The
    pictures of a window are drawn in a random order, each once. Every process reads the stream and has the window in
    its memory. A data set that is sorted by class needs a large `buffer`, or to be stored in a mixed order. A resumed
    run draws the pictures that it would have drawn. It reads on about where it was: most files before are not read.

    Streamed pictures are no reference for scores: metrics then need features that come with one.
    """

    name = "huggingface"

    class Options(Data.Options):
        """
        Attributes:
            path: "owner/name" on the Hugging Face hub, a folder that `save_to_disk` wrote, or one that `load_dataset`
                takes (of pictures, of Parquet files).
            subset: the data set's configuration, where it has several.
            split: which part. Default: "train", or all of a folder without splits.
            image: the column of pictures.
            label: the column of classes: whole numbers, or texts (captions), of which each is a class, numbered in the
                order of the alphabet. A text-conditional model needs the same texts as `prompts`, in that order. Left
                out: no labels.
            size: height and width in pixels.
            channels: 3 (RGB) or 1 (grey).
            streaming: read the data set during the run, and do not download it first. Where `label` is a column of
                texts or of numbers without names, that column is read once before the run (of Parquet files only that
                column, otherwise everything).
            buffer: with `streaming`, the pictures of a window. They are kept as they are stored, as PNG or JPEG.
        """

        path: str
        subset: str | None = None
        split: str | None = None
        image: str = "image"
        label: str | None = None
        size: int = Field(ge=1)
        channels: Literal[1, 3] = 3
        streaming: bool = False
        buffer: int = Field(10_000, ge=1)

    options: Options

    def check(self) -> Iterator[Mistake]:
        """The library is there, and what is streamed has to be downloaded or converted otherwise."""
        if find_spec("datasets") is None:
            yield Mistake(
                "type", "'huggingface' needs datasets, which is not installed: pip install 'distillkit[datasets]'"
            )
        if self.options.streaming and self._saved:
            written = f"'{self.options.path}' was written by save_to_disk, and is read from there as it is"
            yield Mistake("streaming", f"must be false: {written}")

    @property
    def _saved(self) -> bool:
        return any(Path(self.options.path, file).is_file() for file in SAVED)

    def setup(self) -> None:
        """Load the data set, and read the classes."""
        options = self.options
        for mistake in self.check():
            raise DistillkitError(f"data.{mistake}")
        # Imported here, as it may not be installed.
        import datasets

        self._format = datasets.Image()
        with self._reading("cannot be loaded"):
            found = self._load(datasets)
            first = next(iter(found), None)
        if first is None:
            raise DistillkitError(f"data.path: '{options.path}' has no pictures")
        for key, column in (("image", options.image), ("label", options.label)):
            if column is not None and column not in first:
                has = ", ".join(first)
                raise DistillkitError(f"data.{key}: '{options.path}' has no column '{column}'; it has {has}")
        self._names: Sequence[str] | None = None
        self._numbers: Mapping[str, int] = {}
        self._classes: int | None = None
        if options.label is not None:
            self._read_classes(datasets, found, options.label)
        self._found = found.select_columns([options.image, *([options.label] if options.label else [])])
        self._windows = Windows(self._found, options.buffer, f"{options.path} {options.subset} {options.split}")
        self._seed, self._sample = 0, 0
        self._at: list[Row] = [(0, first)]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The place in a stream, so that a resumed run need not read what lies before it."""
        return self._windows.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on there."""
        self._windows.load_state_dict(state)

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except DistillkitError:
            raise
        except Exception as error:  # the library's own loaders raise anything
            raise DistillkitError(f"data.path: '{self.options.path}' {what} ({words(error)})") from error

    def _load(self, datasets: Any) -> Any:
        """The data set, its pictures as bytes or paths."""
        found, image = self._load_saved(datasets) if self._saved else self._load_any(datasets), self.options.image
        return found.cast_column(image, datasets.Image(decode=False)) if image in (found.column_names or ()) else found

    def _load_any(self, datasets: Any, **parts: Any) -> Any:
        options, split = self.options, self.options.split or "train"
        return datasets.load_dataset(options.path, options.subset, split=split, streaming=options.streaming, **parts)

    def _load_saved(self, datasets: Any) -> Any:
        options = self.options
        found = datasets.load_from_disk(options.path)
        if isinstance(found, datasets.DatasetDict):
            split = options.split or "train"
            if split not in found:
                raise DistillkitError(f"data.split: '{options.path}' has no '{split}'; it has {', '.join(found)}")
            return found[split]
        if options.split is not None or options.subset is not None:
            raise DistillkitError(
                f"data.split: '{options.path}' was saved without splits and subsets; leave out split and subset"
            )
        return found

    def _read_classes(self, datasets: Any, found: Any, column: str) -> None:
        names = getattr((found.features or {}).get(column), "names", None)
        values: list[Any] = []
        if names is None or not self.options.streaming:
            values = distributed.on_main_process(lambda: self._read_values(datasets, found, column))
        if names is None and all(isinstance(value, str) for value in values):
            names = sorted(values)
            self._numbers = {name: i for i, name in enumerate(names)}
        elif not all(isinstance(value, int) and value >= 0 for value in values):
            raise self._no_class()
        self._names, self._classes = names, len(names) if names else max(values) + 1

    def _read_values(self, datasets: Any, found: Any, column: str) -> list[Any]:
        """The different values of a column."""
        with self._reading("cannot be read"):
            if self.options.streaming and found.info.builder_name == "parquet":
                found = self._load_any(datasets, columns=[column])
            return list({value if isinstance(value, int | str) else None for value in found[column]})

    def _no_class(self) -> DistillkitError:
        what = "must hold whole numbers of 0 or more, or texts, for every picture"
        return DistillkitError(f"data.label: the column '{self.options.label}' {what}")

    @property
    def classes(self) -> int | None:
        """The number of names of a column that has them, else the highest number and 1; None without `label`."""
        return self._classes

    @property
    def class_names(self) -> Sequence[str] | None:
        """Of a column that has them; the captions."""
        return self._names

    @property
    def streamed(self) -> bool:
        """As `streaming` says."""
        return self.options.streaming

    def __len__(self) -> int:
        return len(self._at) if self.options.streaming else len(self._found)

    def seek(self, seed: int, sample: int) -> None:
        """Read the window of a stream that the sample's picture is in.

        Raises:
            DistillkitError: it cannot be read.
        """
        if self.options.streaming:
            self._seed, self._sample = seed, sample
            with self._reading("cannot be read"):
                self._at = self._windows.window(sample)

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """The indices of any pictures, [count]; of a stream, of the next ones in the order of the windows.

        Raises:
            DistillkitError: the stream cannot be read.
        """
        if not self.options.streaming:
            return super().draw(count, generator)
        with self._reading("cannot be read"):
            self._at = self._windows.pick(self._seed, self._sample, count)
        self._sample += count
        return torch.arange(count)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, channels, size, size] in [−1, 1] and labels [B] (None without `label`).

        Raises:
            DistillkitError: a picture cannot be decoded, or has 32 bits a pixel; or a picture of a stream has no class.
        """
        rows = [self._at[i] if self.options.streaming else (i, self._found[i]) for i in indices.tolist()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what `images` defines
            images = torch.stack([self._picture(*row) for row in rows])
        label = self.options.label
        return images, None if label is None else torch.tensor([self._class(row[label]) for _, row in rows])

    def _picture(self, number: int, row: Mapping[str, Any]) -> torch.Tensor:
        options = self.options
        try:
            stored = row[options.image]
            if not isinstance(stored, dict):  # of a column without a type that says that it holds pictures
                stored = self._format.encode_example(stored)
            return square(self._format.decode_example(stored), options.size, options.channels)
        except Exception as error:  # decoders raise anything, of a damaged file
            raise DistillkitError(
                f"data.path: picture {number} of '{options.path}' cannot be read ({words(error)})"
            ) from None

    def _class(self, value: Any) -> int:
        number = self._numbers.get(value, value)
        if not isinstance(number, int) or not 0 <= number < (self._classes or 0):
            raise self._no_class()
        return number
