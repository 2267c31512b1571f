"""Writes files and folders atomically: after a crash, either the old or the new content is there."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from distillkit.errors import DistillkitError
from distillkit.reading import FOLDER, kind_of

OWNER = ".owner"
"""The file in a folder of `aside` that the process which made the folder keeps locked."""
ASIDE = re.compile(r"\..+\.[a-z0-9_]{8}\.partial")
"""The names of folders that `aside` makes."""
IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENXIO, errno.ESPIPE)
"""What is answered where something else is at the path than was expected there."""


def readable_bytes(number: float) -> str:
    """A number of bytes in the unit that people read: 45.3 kB, 1.1 MB, 62 GB (powers of 1000)."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= 0.9995 * unit:
            scaled = number / unit
            return f"{scaled:.0f} {name}" if scaled >= 99.95 else f"{scaled:.1f}".removesuffix(".0") + f" {name}"
    return f"{number:.0f} bytes"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file or a folder aside, and rename it to `path` at the end; after an error, remove it.

    Args:
        path: what is written. Its folder must exist; an existing file or folder is replaced. Several processes may
            write it at the same time: the last one to finish wins.

    Yields:
        The path to write to. Nothing is there yet.

    Raises:
        DistillkitError: something is there that is never replaced. See `check_replaceable`.
    """
    check_replaceable(path, may_be_folder=True)
    with aside(path.parent, path.name) as temporary:
        yield temporary
        replace(temporary, path)


@contextmanager
def aside(folder: Path, name: str) -> Iterator[Path]:
    """Make a hidden folder in `folder`, and remove it at the end, whatever a library has left in it.

    Its name is random, so that no file or link can wait there. It is locked as long as this process lives. Those of
    processes that have died are removed first.

    Yields:
        A path with this name in the hidden folder. Nothing is there yet.
    """
    sweep(folder)
    hidden, lock = _claim(folder, name)
    try:
        yield hidden / name
    finally:
        _clear(hidden)
        os.close(lock)


def _claim(folder: Path, name: str) -> tuple[Path, int]:
    """A new hidden folder, and the handle that holds its lock."""
    while True:
        hidden = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".partial", dir=folder))
        # Until it is locked, another process may take it for one of the dead: then begin again.
        try:
            lock = os.open(hidden / OWNER, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lost = os.fstat(lock).st_nlink == 0
        except BlockingIOError:
            lost = True
        except OSError:  # the file system has no locks, so that no process removes what another one has made
            lost = False
        if not lost:
            return hidden, lock
        os.close(lock)


def sweep(folder: Path) -> None:
    """Remove what processes that have died left in `folder` of what they were writing."""
    with suppress(OSError), os.scandir(folder) as entries:
        left = [Path(entry) for entry in entries if is_aside(entry.name) and entry.is_dir(follow_symlinks=False)]
        for hidden in left:
            with suppress(OSError):
                _sweep(hidden)


def _sweep(hidden: Path) -> None:
    try:
        lock = os.open(hidden / OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:  # not locked yet, or left before it was
        hidden.rmdir()
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if its process is alive
        _clear(hidden)
    finally:
        os.close(lock)


def _clear(hidden: Path) -> None:
    """Remove a hidden folder; its owner's file last, so that another process can do it if this one dies here."""
    with suppress(OSError):
        for path in hidden.iterdir():
            if path.name != OWNER:
                remove(path)
        remove(hidden / OWNER)
        hidden.rmdir()


def is_aside(name: str) -> bool:
    """Whether a file's name is that of something unfinished, which a process that was killed has left."""
    return ASIDE.fullmatch(name) is not None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace(temporary: Path, path: Path) -> None:
    """Flush a file or a folder to the disk and rename it to `path`.

    A folder cannot be renamed over another one, so an existing folder at `path` is renamed first. See `recover`.
    """
    check_replaceable(path, may_be_folder=temporary.is_dir())
    old = path.with_name(f".{path.name}.old")
    if temporary.is_dir():
        for folder, _, files in os.walk(temporary):
            for name in files:
                flush(Path(folder, name))
            flush(Path(folder))
        if os.path.lexists(path):
            remove(old)
            path.rename(old)
    else:
        flush(temporary)
    os.replace(temporary, path)
    flush(path.parent)
    if path.is_dir():
        remove(old)


def check_replaceable(path: Path, may_be_folder: bool = False) -> None:
    """Check that what is at a path may be replaced: a file or nothing. A renaming would remove a device for good.

    Args:
        path: the path.
        may_be_folder: whether it may be a folder.

    Raises:
        DistillkitError: it is something else, or a link to that.
    """
    kind = kind_of(path)
    if kind is not None and not (may_be_folder and kind == FOLDER):
        raise DistillkitError(f"{path}: is {kind}, which is never replaced by a file: give another path")


def recover(folder: Path) -> None:
    """Complete or undo what `replace` was doing to the folders in `folder` when it was interrupted."""
    for old in folder.glob(".*.old"):
        path = folder / old.name.removeprefix(".").removesuffix(".old")
        if path.exists():
            remove(old)
        else:
            old.rename(path)


def remove(path: Path) -> None:
    """Remove a file, a folder or a link, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def open_in_place(path: Path, mode: str) -> Any:
    """Open a file to change it in place, as `open` does (UTF-8). A link is not followed: it may lead anywhere.

    Raises:
        OSError: it is a link (ELOOP), or cannot be opened.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)

    return open(path, mode, encoding=None if "b" in mode else "utf-8", opener=opener)


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
        advice = "make room, or see to the folder's permissions,"
        if getattr(error, "errno", None) in IN_THE_WAY:
            path, advice = Path(getattr(error, "filename", None) or path), "take away what is there in its place,"
        raise DistillkitError(
            f"{path}: cannot be written ({reason(error)}); nothing that was there before is lost: {advice} and go on "
            "with --resume"
        ) from None


def reason(error: Exception) -> str:
    """Why a file could not be read or written, in a few words: libraries raise errors of their own for a full disk."""
    if getattr(error, "errno", None) == errno.ELOOP:
        return "it is a link, which is not followed"
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
