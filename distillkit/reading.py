"""Reads files that a user names or hands over, and says what is wrong with those that cannot be read."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError

POINTER = b"version https://git-lfs.github.com/spec/"
"""How the file begins that Git LFS leaves in the place of a large one that it has not fetched."""
FOLDER = "a folder"
KINDS = {
    stat.S_ISDIR: FOLDER,
    stat.S_ISFIFO: "a pipe (FIFO)",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
ROW = {"model": str, "steps": int, "metric": str, "value": int | float, "protocol": str}
"""What every row of scores.json has."""


def kind_of(path: Path) -> str | None:
    """What is at a path, or where a link there leads, in two words; None for a file, or nothing."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    return next((name for is_kind, name in KINDS.items() if is_kind(mode)), None)


def links(folder: Path) -> Iterator[Path]:
    """The symbolic links in a folder and the folders below it, in order."""
    yield from filter(Path.is_symlink, paths_below(folder))


def paths_below(folder: Path) -> Iterator[Path]:
    """All that is in a folder and the folders below it, in order; links are not followed."""
    for top, folders, names in os.walk(folder):
        yield from (Path(top, name) for name in sorted(folders + names))


def strangers(folder: Path) -> Iterator[tuple[Path, str]]:
    """What is neither a file nor a folder in a folder and those below it, in order, each with what it is."""
    for path in paths_below(folder):
        kind = "a link" if path.is_symlink() else kind_of(path)
        if kind not in (None, FOLDER):
            yield path, kind


def check_file(path: Path, what: str = "a file") -> None:
    """Check that a path is that of a file. A pipe or a device may never end, and opening one may wait for ever.

    Args:
        path: the path.
        what: what should be there, for the message.

    Raises:
        DistillkitError: there is none, or it is something else.
    """
    if (kind := kind_of(path)) is not None:
        raise DistillkitError(f"{path}: is {kind}, and not a file; give the path of {what}")
    if not path.exists():
        raise DistillkitError(f"{path}: there is no such file; give the path of {what}")


def read_text(path: Path) -> str:
    """The text of a file (UTF-8, with or without a byte-order mark).

    Raises:
        DistillkitError: there is no such file, or it cannot be read as text.
    """
    check_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DistillkitError(
            f"{path}: cannot be read as a text file ({getattr(error, 'strerror', None) or error})"
        ) from None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DistillkitError: there is no such file, or it cannot be read as JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        check_not_a_pointer(path)
        raise DistillkitError(f"{path}: cannot be read as JSON ({error})") from None


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The rows of a scores.json.

    Raises:
        DistillkitError: there is no such file, or it is not what a run writes.
    """
    rows = read_json(path)
    for row in rows if isinstance(rows, list) else [None]:
        if not isinstance(row, dict) or not all(isinstance(row.get(key), kind) for key, kind in ROW.items()):
            expected = f"a list of rows, each with {', '.join(ROW)}"
            raise DistillkitError(
                f"{path}: is damaged: expected {expected}; get it anew, or score the pipeline with distillkit evaluate"
            )
    return list(rows)


def way(row: Mapping[str, Any]) -> str:
    """How the samples of a teacher's row were made: the solver, and the guidance scale, if it is not 1."""
    scale = row.get("guidance", 1)
    return str(row["solver"]) if scale == 1 else f"{row['solver']} guided at {scale:g}"


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in the place of one that it has not fetched.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as content:
        return content.read(len(POINTER)) == POINTER


def check_not_a_pointer(path: Path) -> None:
    """Check that a file is not what Git LFS leaves in the place of a large file that it has not fetched.

    Raises:
        DistillkitError: it is, or it cannot be read.
    """
    try:
        pointer = is_pointer(path)
    except OSError as error:
        raise DistillkitError(f"{path}: cannot be read ({error.strerror})") from None
    if pointer:
        raise DistillkitError(
            f"{path}: is a Git LFS pointer in the place of the file; run `git lfs pull` in {path.parent}"
        )
