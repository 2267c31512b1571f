"""Puts classes that diffusers does not have into a pipeline's folder, so that it loads without distillkit."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path


def ship(folder: Path, pipeline: type, own: Mapping[str, type] | None = None) -> None:
    """Copy the classes' files, each of which needs only torch and diffusers, and name them in the index.

    Args:
        folder: a pipeline's, as `save_pretrained` left it.
        pipeline: the pipeline's class.
        own: for each part of it that is no class of diffusers' either, its class.
    """
    index = folder / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content["_class_name"] = [_copy(pipeline, folder), pipeline.__name__]
    for part, kind in (own or {}).items():
        content[part] = [_copy(kind, folder / part), kind.__name__]
    index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _copy(kind: type, folder: Path) -> str:
    """Put a class's file into a folder; the file's name without .py."""
    source = Path(inspect.getfile(kind))
    shutil.copyfile(source, folder / source.name)
    return source.stem
