"""Opens the files of a folder that diffusers saved, and says what is wrong with those that cannot be read.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from distillkit import reading
from distillkit.errors import DistillkitError
from distillkit.reading import check_not_a_pointer


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


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DistillkitError: the file cannot be read, or holds something else.
    """
    content = reading.read_json(file)
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
