"""Sets of images: scikit-learn's digits, and Fashion-MNIST from its IDX files."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional
from pydantic import Field

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Data


class Digits(Data):
    """Digits 0 to 9, one channel, 8×8. Read from scikit-learn."""

    name = "digits"

    def setup(self) -> None:
        """Read the pictures from scikit-learn."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self._images = torch.from_numpy(bunch.images).float().div(8).sub(1).unsqueeze(1)
        self._labels = torch.from_numpy(bunch.target).long()

    @property
    def classes(self) -> int:
        """10."""
        return 10

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, 1, 8, 8] in [−1, 1] and labels [B]."""
        return self._images[indices], self._labels[indices]


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not.

    Raises:
        DistillkitError: the file is not an IDX file, or is truncated.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DistillkitError(f"{path}: cannot be decompressed ({error})") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DistillkitError(f"{path}: not an IDX file of unsigned bytes")
    dimensions = raw[3]
    shape = struct.unpack_from(f">{dimensions}I", raw, 4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise DistillkitError(f"{path}: should have {shape} values, but has {values.size}")
    return values.reshape(shape)


class FashionMnist(Data):
    """Fashion-MNIST padded to 32×32 (Xiao et al. 2017; MIT licence). Debian packages it: dataset-fashion-mnist."""

    name = "fashion-mnist"

    class Options(Data.Options):
        """
        Attributes:
            folder: the folder of train-images-idx3-ubyte.gz and the other three files (gzipped or not).
            split: "train" (60 000) or "test" (10 000).
            padding: black pixels on every side.
        """

        folder: Path = Path("/usr/share/datasets/fashion-mnist")
        split: Literal["train", "test"] = "train"
        padding: int = Field(2, ge=0)

    options: Options

    def check(self) -> Iterator[Mistake]:
        """The files must exist."""
        for stem in self._stems():
            if self._find(stem) is None:
                yield Mistake(
                    "folder",
                    f"there is no {stem}[.gz] in {self.options.folder}; install Debian's dataset-fashion-mnist, "
                    "or name the folder that holds Fashion-MNIST's IDX files",
                )

    def setup(self) -> None:
        """Read the files."""
        images, labels = (read_idx(path) for stem in self._stems() if (path := self._find(stem)) is not None)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DistillkitError(
                f"data.folder: {self.options.folder} has {len(images)} images, {list(images.shape[1:])} pixels each, "
                f"and {labels.size} labels"
            )
        self._images = torch.from_numpy(images.copy()).unsqueeze(1)
        self._labels = torch.from_numpy(labels.copy()).long()

    def _stems(self) -> tuple[str, str]:
        part = "train" if self.options.split == "train" else "t10k"
        return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"

    def _find(self, stem: str) -> Path | None:
        candidates = (self.options.folder / f"{stem}.gz", self.options.folder / stem)
        return next((path for path in candidates if path.is_file()), None)

    @property
    def classes(self) -> int:
        """10 for Fashion-MNIST."""
        return int(self._labels.max()) + 1

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, 1, 28 + 2·padding, 28 + 2·padding] in [−1, 1] and labels [B]."""
        images = self._images[indices].float().div(127.5).sub(1)
        return torch.nn.functional.pad(images, (self.options.padding,) * 4, value=-1.0), self._labels[indices]
