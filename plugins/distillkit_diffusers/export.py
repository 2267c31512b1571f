"""Saves a pipeline as a folder that diffusers loads without distillkit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def save(pipeline: Any, folder: Path, card: str, shipped: Mapping[str, ModuleType] | None = None) -> None:
    """Write the pipeline aside, then rename it into place: diffusers' own saving is not atomic.

    Args:
        pipeline: what to save.
        folder: where; what is there is replaced whole.
        card: README.md.
        shipped: the modules of the classes that diffusers has not, by the part that is of that class; "" is the
            pipeline itself. They need only torch and diffusers, and each goes where its part is.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    pipeline.save_pretrained(aside)
    if shipped:
        _ship(pipeline, shipped, aside)
    (aside / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _ship(pipeline: Any, shipped: Mapping[str, ModuleType], folder: Path) -> None:
    """Put the classes' files beside the weights, and their names into the index."""
    index = folder / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    for part, module in shipped.items():
        source = Path(str(module.__file__))
        shutil.copyfile(source, folder / part / source.name)
        if part:
            content[part][0] = source.stem
        else:
            content["_class_name"] = [source.stem, type(pipeline).__name__]
    index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
