"""Opens the files of a folder that diffusers saved, and says what is wrong with those that cannot be read.

Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from distillkit.errors import DistillkitError

_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def opened(file: Path, framework: str) -> Iterator[Any]:
    """Open a file of safetensors.

    Raises:
        DistillkitError: it is damaged, or no safetensors.
    """
    try:
        with safe_open(file, framework=framework) as content:
            yield content
    except (OSError, SafetensorError) as error:
        check_not_a_pointer(file)
        raise DistillkitError(
            f"{file}: cannot be read as safetensors ({error}); it is damaged, or was not copied to its end: get it anew"
        ) from None


def check_not_a_pointer(file: Path) -> None:
    """Check that a file is not what Git LFS leaves in the place of a large file that it has not fetched.

    Raises:
        DistillkitError: it is, or it cannot be read.
    """
    try:
        with file.open("rb") as content:
            start = content.read(len(_POINTER))
    except OSError as error:
        raise DistillkitError(f"{file}: cannot be read ({error.strerror})") from None
    if start == _POINTER:
        raise DistillkitError(
            f"{file}: is a Git LFS pointer in the place of the file; run `git lfs pull` in {file.parent}"
        )


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DistillkitError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if not isinstance(error, OSError):
            check_not_a_pointer(file)
        raise DistillkitError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise DistillkitError(f"{file}: must hold a JSON object")
    return content


def what_is(path: Path) -> str:
    """What a path is that is no file, as the end of a sentence."""
    if path.is_dir():
        return "is a folder"
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which is not there"
    return "is no file, but a pipe, a socket or a device" if path.exists() else "is not there"
