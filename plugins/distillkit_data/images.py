"""Folders of pictures."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import click
import PIL.Image
import torch
from pydantic import Field

from distillkit import distributed
from distillkit.errors import DistillkitError, Mistake, printable
from distillkit.interfaces import Data
from distillkit_data.pictures import check_pictures, square, words

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
UNREAD = {".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".jfif", ".ppm", ".pgm", ".tga"}
"""The suffixes of pictures that are left out, with a line that says so."""
OTHERS = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""Folders that archivers, network disks and file systems add."""
NAMED = 3
"""Pictures that a message names, if there are more."""


class Images(Data):
    """Pictures read as they are asked for, cut to a centred square and resized.

    With sub-folders, each that holds pictures is a class, numbered in the order of their names; without, or with
    pictures beside them, there are no labels. Links are followed. Left out are hidden files and folders (.DS_Store,
    ._1.png), folders that archivers and network disks add (__MACOSX, @eaDir), pictures of other kinds than PNG, JPEG,
    WebP and BMP, and what is not a regular file.

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
        folder = self.options.folder
        if folder.exists() and not folder.is_dir():
            yield Mistake("folder", f"{folder} is no folder; give the folder that the pictures are in")
        elif not folder.is_dir():
            yield Mistake("folder", f"there is no folder {folder}")

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
        others = [path for path in paths if path.suffix.lower() not in SUFFIXES]
        paths = [path for path in paths if path.suffix.lower() in SUFFIXES]
        names = sorted({path.relative_to(folder).parts[0] for path in paths if path.parent != folder})
        faults = check_pictures(paths)
        bad = [f"{_shown(path.relative_to(folder))} ({faults[path]})" for path in paths if path in faults]
        good = [path for path in paths if path not in faults]
        some = ", ".join(bad[:NAMED]) + (f" and {len(bad) - NAMED} more" if len(bad) > NAMED else "")
        if bad and self.options.on_bad_picture == "stop":
            raise DistillkitError(
                f"data.folder: {len(bad)} of {len(paths)} pictures in {folder} cannot be used: {some}; take them away, "
                'or set data.on_bad_picture = "skip"'
            )
        if not good:
            what = f"none can be used: {some}" if bad else f"{', '.join(sorted(SUFFIXES))}"
            more = f"; {_other_kinds(others)}: convert them" if others else ""
            raise DistillkitError(f"data.folder: no pictures ({what}) in {folder}{more}")
        if bad:
            click.echo(f"data.folder: {len(bad)} of {len(paths)} pictures in {folder} are left out: {some}", err=True)
        if others:
            click.echo(f"data.folder: in {folder}, {_other_kinds(others)} and left out", err=True)
        beside = [path for path in good if path.parent == folder]
        if names and beside:
            click.echo(
                f"data.folder: there are no labels, because {_counted(len(beside), 'picture')} in {folder}, such as "
                f"{_shown(beside[0].relative_to(folder))}, {'lies' if len(beside) == 1 else 'lie'} beside its folders; "
                "take such pictures away for a class from each folder",
                err=True,
            )
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
                fault = f"{_shown(self._paths[i])}: cannot be read as a picture ({words(error, self._paths[i])})"
        raise DistillkitError(f'{fault}; take it away, or set data.on_bad_picture = "skip"')

    def _read(self, path: Path) -> torch.Tensor:
        with PIL.Image.open(path) as image:
            return square(image, self.options.size, self.options.channels)


def _shown(path: Path) -> str:
    """A path in a message."""
    return printable(str(path), lines=False)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"


def _other_kinds(paths: Sequence[Path]) -> str:
    suffixes = ", ".join(sorted({path.suffix.lower() for path in paths}))
    return (
        f"{_counted(len(paths), 'picture')} of other kinds ({suffixes}) {'is' if len(paths) == 1 else 'are'} not read"
    )


def _pictures(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """The pictures in a folder and below, also of kinds that are not read.

    `above` are the folders that it lies in, to which links may lead back.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name in OTHERS:
                continue
            known = Path(entry.name).suffix.lower() in SUFFIXES | UNREAD
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link that leads to itself: a bad picture
                is_folder, is_file = False, True
            if is_folder:
                yield from _pictures(Path(entry), above | {real})
            # Opening a FIFO or a device may wait for ever.
            elif known and is_file:
                yield Path(entry)
