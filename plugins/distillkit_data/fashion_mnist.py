"""Fashion-MNIST (70 000 pictures of clothes, 28×28) from its IDX files in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional
from pydantic import Field

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Data
from distillkit_data.idx import read_idx


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
