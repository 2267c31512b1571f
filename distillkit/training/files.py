"""Writing so that whatever happens leaves the old or the new, never half of one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from distillkit.errors import DistillkitError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, `path` is written: a full disk and the like become one sentence.

    Raises:
        DistillkitError: it could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DistillkitError(
            f"{path}: cannot be written ({reason}); nothing that was there before is lost: make room, or see to the "
            "folder's permissions, and go on with --resume"
        ) from None


def flush(path: Path) -> None:
    """Have the disk take a file's content, or a folder's names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    aside = partial(path)
    aside.write_text(text, encoding="utf-8")
    replace_file(aside, path)


def partial(path: Path) -> Path:
    """Where what will be `path` is written aside."""
    return path.with_name(f".{path.name}.partial")


def replace_file(aside: Path, path: Path) -> None:
    """Put a file in its place, at once."""
    flush(aside)
    os.replace(aside, path)
    flush(path.parent)


def replace_folder(aside: Path, path: Path) -> None:
    """Put a folder in its place. What was there before is moved out of the way first: see `recover`."""
    for folder, _, files in os.walk(aside):
        for name in files:
            flush(Path(folder, name))
        flush(Path(folder))
    old = _old(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    aside.rename(path)
    flush(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put back what `replace_folder` had moved out of the way when it was cut off before the new one was there."""
    for old in folder.glob(".*.old"):
        path = folder / old.name.removeprefix(".").removesuffix(".old")
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def keep_lines(path: Path, lines: int) -> None:
    """Cut a file behind its first lines, in place. One that is not whole is none."""
    with path.open("rb+") as file:
        kept = [line for _, line in zip(range(lines), file, strict=False) if line.endswith(b"\n")]
        file.truncate(sum(map(len, kept)))
