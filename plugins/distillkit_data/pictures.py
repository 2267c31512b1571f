"""Decodes pictures, and says what is wrong with those that cannot be used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import PIL.Image
import PIL.ImageOps
import torch
from rich.console import Console
from rich.progress import Progress

from distillkit.reading import is_pointer

THREADS = 16
CHUNK = 256
"""Pictures that a thread checks at a time."""
ENDS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
"""The last bytes of a picture that is whole. Some programs write more behind them."""
TAIL = 1024


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
        return words(error, path)
    return None


def _ends_well(file: BinaryIO, kind: str) -> bool:
    """Whether a picture's last bytes are those of a whole one."""
    size = file.seek(0, os.SEEK_END)
    if kind == "WEBP":  # it says how long it is
        file.seek(4)
        return 8 + int.from_bytes(file.read(4), "little") <= size
    file.seek(max(0, size - TAIL))
    return kind in ENDS and ENDS[kind] in file.read()


def words(error: Exception, path: Path | None = None) -> str:
    """What is wrong with a picture, in a few words: its decoder's error, or what lies in the place of the file."""
    if isinstance(error, PIL.Image.DecompressionBombError):
        return f"it has more than {2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)} pixels, Pillow's limit"
    if isinstance(error, PIL.UnidentifiedImageError):
        if path is not None and is_pointer(path):
            return "it is a Git LFS pointer in the place of the file: run git lfs pull"
        return "it is no picture that Pillow knows"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
