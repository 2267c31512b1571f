"""A folder of pictures; sub-folders are classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import PIL
import PIL.Image
import PIL.ImageOps
import torch
from pydantic import Field

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Data

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


class Images(Data):
    """Pictures read as they are asked for, cut to a centred square and resized.

    With sub-folders, each is a class, numbered in the order of their names; without, there are no labels.
    """

    name = "images"

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
