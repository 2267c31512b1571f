"""Writes files and folders atomically: after a crash, either the old or the new content is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from distillkit.errors import DistillkitError


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """Write a file or a folder beside `path`, and rename it to `path` at the end; after an error, remove it.

    Args:
        path: what is written. Its folder must exist; an existing file or folder is replaced.
        shared: whether several processes may write `path` at the same time. The last one to finish wins.

    Yields:
        The path to write to. Nothing is there yet.
    """
    temporary = partial(path, f"{os.getpid()}." if shared else "")
    remove(temporary)
    try:
        yield temporary
        replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def partial(path: Path, owner: str = "") -> Path:
    """The path beside `path` to which its content is written before it is renamed."""
    return path.with_name(f".{path.name}.{owner}partial")


def replace(temporary: Path, path: Path) -> None:
    """Flush a file or a folder to the disk and rename it to `path`.

    A folder cannot be renamed over another one, so an existing folder at `path` is renamed first. See `recover`.
    """
    old = path.with_name(f".{path.name}.old")
    if temporary.is_dir():
        for folder, _, files in os.walk(temporary):
            for name in files:
                flush(Path(folder, name))
            flush(Path(folder))
        if path.exists():
            remove(old)
            path.rename(old)
    else:
        flush(temporary)
    os.replace(temporary, path)
    flush(path.parent)
    if path.is_dir():
        remove(old)


def recover(folder: Path) -> None:
    """Complete or undo what `replace` was doing to the folders in `folder` when it was interrupted."""
    for old in folder.glob(".*.old"):
        path = folder / old.name.removeprefix(".").removesuffix(".old")
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    elif path.exists():
        path.unlink()


def flush(path: Path) -> None:
    """Flush a file's content, or a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within this context, which writes a run's `path`, errors such as a full disk become one sentence.

    Raises:
        DistillkitError: the path could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DistillkitError(
            f"{path}: cannot be written ({reason}); nothing that was there before is lost: make room, or see to the "
            "folder's permissions, and go on with --resume"
        ) from None
