"""Data sets of the Hugging Face library `datasets`, an optional dependency."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Data
from distillkit_data.images import square, words

SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` writes, of a data set with splits and of one without."""


class HuggingFace(Data):
    """A data set that the library `datasets` loads: a column of pictures and, optional, one of classes or captions.

    Pictures are turned, made opaque, cut to a centred square and resized as those of `images` are. Unlike those, they
    are checked only when they are drawn, and a bad one cannot be skipped: it stops the run, which makes a checkpoint
    first.

    Data sets are downloaded as a whole. They cannot be streamed, because sources draw pictures in a random order, which
    a resumed run repeats.
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
        """

        path: str
        subset: str | None = None
        split: str | None = None
        image: str = "image"
        label: str | None = None
        size: int = Field(ge=1)
        channels: Literal[1, 3] = 3

    options: Options

    def check(self) -> Iterator[Mistake]:
        """The library is there."""
        if find_spec("datasets") is None:
            yield Mistake(
                "type", "'huggingface' needs datasets, which is not installed: pip install 'distillkit[datasets]'"
            )

    def setup(self) -> None:
        """Load the data set, and read the labels."""
        options = self.options
        for mistake in self.check():
            raise DistillkitError(f"data.{mistake}")
        try:
            found = self._load()
        except DistillkitError:
            raise
        except Exception as error:  # the library's own loaders raise anything
            raise DistillkitError(f"data.path: '{options.path}' cannot be loaded ({words(error)})") from error
        for key, column in (("image", options.image), ("label", options.label)):
            if column is not None and column not in found.column_names:
                raise DistillkitError(
                    f"data.{key}: '{options.path}' has no column '{column}'; it has {', '.join(found.column_names)}"
                )
        if not len(found):
            raise DistillkitError(f"data.path: '{options.path}' has no pictures")
        self._names: Sequence[str] | None = None
        self._labels: list[int] | None = None
        self._classes: int | None = None
        if options.label is not None:
            self._read_labels(found, options.label)
        self._pictures = found.select_columns([options.image])

    def _load(self) -> Any:
        # Imported here, as it may not be installed.
        import datasets

        options = self.options
        if not any(Path(options.path, file).is_file() for file in SAVED):
            return self._with_pictures(
                datasets, datasets.load_dataset(options.path, options.subset, split=options.split or "train")
            )
        found = datasets.load_from_disk(options.path)
        if isinstance(found, datasets.DatasetDict):
            split = options.split or "train"
            if split not in found:
                raise DistillkitError(f"data.split: '{options.path}' has no '{split}'; it has {', '.join(found)}")
            return self._with_pictures(datasets, found[split])
        if options.split is not None or options.subset is not None:
            raise DistillkitError(
                f"data.split: '{options.path}' was saved without splits and subsets; leave out split and subset"
            )
        return self._with_pictures(datasets, found)

    def _with_pictures(self, datasets: Any, found: Any) -> Any:
        """Paths and bytes as pictures."""
        column = self.options.image
        return found.cast_column(column, datasets.Image()) if column in found.column_names else found

    def _read_labels(self, found: Any, column: str) -> None:
        values = list(found[column])
        names = getattr(found.features[column], "names", None)
        if names is None and all(isinstance(value, str) for value in values):
            names = sorted(set(values))
            number = {name: i for i, name in enumerate(names)}
            values = [number[value] for value in values]
        if not all(isinstance(value, int) and value >= 0 for value in values):
            raise DistillkitError(
                f"data.label: the column '{column}' must hold whole numbers of 0 or more, or texts, for every picture"
            )
        self._labels, self._names = values, names
        self._classes = len(names) if names else max(values) + 1

    @property
    def classes(self) -> int | None:
        """The number of names of a column that has them, else the highest number and 1; None without `label`."""
        return self._classes

    @property
    def class_names(self) -> Sequence[str] | None:
        """Of a column that has them; the captions."""
        return self._names

    def __len__(self) -> int:
        return len(self._pictures)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, channels, size, size] in [−1, 1] and labels [B] (None without `label`).

        Raises:
            DistillkitError: a picture cannot be decoded, or has 32 bits a pixel.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what `images` defines
            images = torch.stack([self._picture(i) for i in indices.tolist()])
        return images, None if self._labels is None else torch.tensor([self._labels[i] for i in indices.tolist()])

    def _picture(self, index: int) -> torch.Tensor:
        options = self.options
        try:
            return square(self._pictures[index][options.image], options.size, options.channels)
        except Exception as error:  # decoders raise anything, of a damaged file
            raise DistillkitError(
                f"data.path: picture {index} of '{options.path}' cannot be read ({words(error)})"
            ) from None
