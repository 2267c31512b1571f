"""Sets of images: scikit-learn's digits, Fashion-MNIST from its IDX files, and folders of pictures."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import PIL
import PIL.Image
import PIL.ImageOps
import torch
import torch.nn.functional
from pydantic import Field

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Data


class Digits(Data):
    """Digits 0 to 9, one channel, 8×8. Needs scikit-learn, which MLflow installs."""

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
    """An IDX file of unsigned bytes, gzipped or not.

    Raises:
        DistillkitError: it is not one, or it is cut short.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DistillkitError(f"{path}: cannot be unpacked ({error})") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DistillkitError(f"{path}: not an IDX file of unsigned bytes")
    dimensions = raw[3]
    shape = struct.unpack_from(f">{dimensions}I", raw, 4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise DistillkitError(f"{path}: says it holds {shape} values, and holds {values.size}")
    return values.reshape(shape)


class FashionMnist(Data):
    """Fashion-MNIST padded to 32×32 (Xiao et al. 2017; MIT licence). Debian packages it: dataset-fashion-mnist."""

    name = "fashion-mnist"

    class Options(Data.Options):
        """
        Attributes:
            folder: where train-images-idx3-ubyte.gz and its siblings are (gzipped or not).
            split: "train" (60 000) or "test" (10 000).
            padding: black pixels on every side.
        """

        folder: Path = Path("/usr/share/datasets/fashion-mnist")
        split: Literal["train", "test"] = "train"
        padding: int = Field(2, ge=0)

    options: Options

    def check(self) -> Iterator[Mistake]:
        """The files must be there."""
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
        """10, unless the files hold something else than Fashion-MNIST."""
        return int(self._labels.max()) + 1

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, 1, 28 + 2·padding, 28 + 2·padding] in [−1, 1] and labels [B]."""
        images = self._images[indices].float().div(127.5).sub(1)
        return torch.nn.functional.pad(images, (self.options.padding,) * 4, value=-1.0), self._labels[indices]


SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class Images(Data):
    """Pictures read as they are asked for, cut to a centred square and resized.

    With sub-folders, each is a class, numbered in the order of their names; without, there are no labels.
    """

    name = "images"
    default = True

    class Options(Data.Options):
        """
        Attributes:
            folder: the folder, searched with its sub-folders.
            size: height and width in pixels.
            channels: 3 (RGB) or 1 (grey).
        """

        folder: Path
        size: int = Field(ge=1)
        channels: Literal[1, 3] = 3

    options: Options

    def check(self) -> Iterator[Mistake]:
        """The folder must be there."""
        if not self.options.folder.is_dir():
            yield Mistake("folder", f"there is no folder {self.options.folder}")

    def setup(self) -> None:
        """Find the pictures."""
        folder = self.options.folder
        self._paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not self._paths:
            raise DistillkitError(f"data.folder: no pictures ({', '.join(sorted(SUFFIXES))}) in {folder}")
        tops = [path.relative_to(folder).parts[0] if path.parent != folder else None for path in self._paths]
        names = sorted({top for top in tops if top is not None})
        labelled = names and None not in tops
        self._labels = [names.index(top) for top in tops if top is not None] if labelled else None
        self._classes = len(names) if labelled else None

    @property
    def classes(self) -> int | None:
        """The number of sub-folders; None without any."""
        return self._classes

    def __len__(self) -> int:
        return len(self._paths)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, channels, size, size] in [−1, 1] and labels [B] (None without sub-folders)."""
        chosen = indices.tolist()
        images = torch.stack([self._read(self._paths[i]) for i in chosen])
        return images, None if self._labels is None else torch.tensor([self._labels[i] for i in chosen])

    def _read(self, path: Path) -> torch.Tensor:
        size = self.options.size
        try:
            with PIL.Image.open(path) as image:
                square = PIL.ImageOps.fit(
                    image.convert("L" if self.options.channels == 1 else "RGB"),
                    (size, size),
                    PIL.Image.Resampling.LANCZOS,
                )
        except (PIL.UnidentifiedImageError, OSError) as error:
            raise DistillkitError(f"{path}: cannot be read as a picture ({error})") from None
        pixels = torch.from_numpy(np.array(square)).float().div(127.5).sub(1)
        return pixels.view(size, size, self.options.channels).permute(2, 0, 1)
