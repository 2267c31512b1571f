"""Folders of pictures."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal

import click
import numpy as np
import PIL
import PIL.Image
import PIL.ImageOps
import torch
from pydantic import Field
from rich.console import Console
from rich.progress import Progress

from distillkit import distributed
from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Data

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
OTHERS = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""Folders that archivers, network disks and file systems add."""
THREADS = 16
CHUNK = 256
"""Pictures that a thread checks at a time."""
NAMED = 3
"""Pictures that a message names, if there are more."""
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""The last bytes of a picture that is whole. Some programs write more behind them."""
TAIL = 1024


class Images(Data):
    """Pictures read as they are asked for, cut to a centred square and resized.

    With sub-folders, each that holds pictures is a class, numbered in the order of their names; without, or with
    pictures beside them, there are no labels. Links are followed. Left out are hidden files and folders (.DS_Store,
    ._1.png), folders that archivers and network disks add (__MACOSX, @eaDir), and what is not a regular file.

    Pictures are turned as their EXIF data say. Transparent parts are laid on white. CMYK and palettes become RGB or
    grey by Pillow's formulas, without colour profiles. Of 16 bits the upper 8 are taken, of an animation the first
    picture. Pictures of 32 bits a pixel count as bad.

    Each picture's beginning and end are checked before the run begins. A picture of more than 179 million pixels,
    Pillow's limit, counts as bad, like a file that is cut short or is no picture.
    """

    name = "images"
    default = True
    command_options: ClassVar[Mapping[str, str]] = {"folder": "folder", "size": "size", "channels": "channels"}

    class Options(Data.Options):
        """
        Attributes:
            folder: the folder, searched with its sub-folders.
            size: height and width in pixels.
            channels: 3 (RGB) or 1 (grey).
            on_bad_picture: what to do about pictures that cannot be read: "stop" before the run begins, or "skip" them.
                Where one turns out to be bad only when it is decoded, "stop" makes a checkpoint first, and "skip" takes
                the next picture in its place.
        """

        folder: Path
        size: int = Field(ge=1)
        channels: Literal[1, 3] = 3
        on_bad_picture: Literal["stop", "skip"] = "stop"

    options: Options

    def check(self) -> Iterator[Mistake]:
        """The folder must be there."""
        if not self.options.folder.is_dir():
            yield Mistake("folder", f"there is no folder {self.options.folder}")

    def setup(self) -> None:
        """Find the pictures and check them. The main process does it for all."""
        folder = self.options.folder
        paths, names = distributed.on_main_process(self._find)
        self._paths = [Path(path) for path in paths]
        tops = [path.relative_to(folder).parts[0] if path.parent != folder else None for path in self._paths]
        labelled = names and None not in tops
        self._labels = [names.index(top) for top in tops if top is not None] if labelled else None
        self._names = names if labelled else None

    def _find(self) -> tuple[list[str], list[str]]:
        """The pictures, and the names of the sub-folders that hold any: bad ones count here, so that a class keeps its
        number."""
        folder = self.options.folder
        try:
            paths = sorted(_pictures(folder))
        except OSError as error:
            raise DistillkitError(f"data.folder: {error.filename}: cannot be read ({error.strerror})") from None
        names = sorted({path.relative_to(folder).parts[0] for path in paths if path.parent != folder})
        faults = check_pictures(paths)
        bad = [f"{path.relative_to(folder)} ({faults[path]})" for path in paths if path in faults]
        good = [path for path in paths if path not in faults]
        some = ", ".join(bad[:NAMED]) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
        if bad and self.options.on_bad_picture == "stop":
            raise DistillkitError(
                f"data.folder: {len(bad)} of {len(paths)} pictures in {folder} cannot be used: {some}; take them away, "
                'or set data.on_bad_picture = "skip"'
            )
        if not good:
            what = f"none can be used: {some}" if bad else f"{', '.join(sorted(SUFFIXES))}"
            raise DistillkitError(f"data.folder: no pictures ({what}) in {folder}")
        if bad:
            click.echo(f"data.folder: {len(bad)} of {len(paths)} pictures in {folder} are left out: {some}", err=True)
        return [str(path) for path in good], names

    @property
    def classes(self) -> int | None:
        """The number of sub-folders with pictures; None without any."""
        return None if self._names is None else len(self._names)

    @property
    def class_names(self) -> Sequence[str] | None:
        """The sub-folders' names."""
        return self._names

    def __len__(self) -> int:
        return len(self._paths)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, channels, size, size] in [−1, 1] and labels [B] (None without sub-folders).

        Raises:
            DistillkitError: a picture cannot be read, and `on_bad_picture` is "stop", or no picture can be read.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about what is defined here
            images, read = zip(*(self._picture(i) for i in indices.tolist()), strict=True)
        return torch.stack(images), None if self._labels is None else torch.tensor([self._labels[i] for i in read])

    def _picture(self, index: int) -> tuple[torch.Tensor, int]:
        """The picture of an index, or the next one that can be read, and its own index."""
        for i in [*range(index, len(self)), *range(index)] if self.options.on_bad_picture == "skip" else [index]:
            try:
                return self._read(self._paths[i]), i
            except Exception as error:  # decoders raise anything, of a damaged file
                fault = f"{self._paths[i]}: cannot be read as a picture ({words(error)})"
        raise DistillkitError(f'{fault}; take it away, or set data.on_bad_picture = "skip"')

    def _read(self, path: Path) -> torch.Tensor:
        with PIL.Image.open(path) as image:
            return square(image, self.options.size, self.options.channels)


def square(image: PIL.Image.Image, size: int, channels: int) -> torch.Tensor:
    """The centred square of a picture, resized: [channels, size, size] in [−1, 1].

    Raises:
        ValueError: it has 32 bits a pixel.
    """
    fitted = PIL.ImageOps.fit(flat(image, channels), (size, size), PIL.Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(fitted)).float().div(127.5).sub(1).view(size, size, channels).permute(2, 0, 1)


def flat(image: PIL.Image.Image, channels: int) -> PIL.Image.Image:
    """A picture upright and opaque, with 8 bits, as RGB or grey. See `Images` for what becomes of other pictures.

    Raises:
        ValueError: it has 32 bits a pixel.
    """
    _refuse_32_bits(image)
    image.load()
    with suppress(Exception):  # EXIF data may be damaged where the picture is not
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _refuse_32_bits(image: PIL.Image.Image) -> None:
    """Pillow would cut such values off at 255, and make most pictures white."""
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a pixel, and nothing says which range of them is used")


def _pictures(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The pictures in a folder and below; `above` are the folders that it lies in, to which links may lead back."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in OTHERS:
                continue
            if entry.is_dir():
                yield from _pictures(Path(entry), above | {real})
            # Opening a FIFO or a device may wait for ever.
            elif Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file():
                yield Path(entry)


def check_pictures(paths: Sequence[Path]) -> dict[Path, str]:
    """What is wrong with those that cannot be used, with a bar on a terminal."""
    chunks = [paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK)]
    console = Console(stderr=True)
    faults: dict[Path, str] = {}
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
        ThreadPoolExecutor(THREADS) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        task = progress.add_task("checking pictures", total=len(paths))
        for chunk, found in zip(chunks, pool.map(lambda chunk: [fault(path) for path in chunk], chunks), strict=True):
            faults |= {path: text for path, text in zip(chunk, found, strict=True) if text is not None}
            progress.advance(task, len(chunk))
    return faults


def fault(path: Path) -> str | None:
    """What is wrong with a picture, by its beginning and its end. Where the end is unusual, all of it is decoded."""
    try:
        with path.open("rb") as file, PIL.Image.open(file) as image:
            _refuse_32_bits(image)
            if not _ends_well(file, image.format or ""):
                file.seek(0)
                image.load()
    except Exception as error:  # decoders raise anything, of a damaged file
        return words(error)
    return None


def _ends_well(file: BinaryIO, kind: str) -> bool:
    """Whether a picture's last bytes are those of a whole one."""
    size = file.seek(0, os.SEEK_END)
    if kind == "WEBP":  # it says how long it is
        file.seek(4)
        return 8 + int.from_bytes(file.read(4), "little") <= size
    file.seek(max(0, size - TAIL))
    return kind in ENDS and ENDS[kind] in file.read()


def words(error: Exception) -> str:
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"it has more than {2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)} pixels, Pillow's limit"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "it is no picture that Pillow knows"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
