"""Saves a pipeline as a folder that diffusers loads without distillkit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from distillkit_diffusers.folder import PICKLES, PipelineFolder


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
    _move(aside, folder, card)


def save_over(source: PipelineFolder, parts: Mapping[str, Any], folder: Path, card: str) -> None:
    """Write another folder's pipeline with some of its parts replaced, and the others as they are; as `save` does.

    Args:
        source: the other pipeline's.
        parts: the new ones, which save themselves.
        folder: where.
        card: README.md.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in source.components.keys() - parts.keys():
        _copy(source.path / name, aside / name)
    index = source.index
    for name, part in parts.items():
        part.save_pretrained(aside / name)
        index[name] = ["diffusers", type(part).__name__]
    (aside / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    _move(aside, folder, card)


def _copy(source: Path, target: Path) -> None:
    """Copy a part. Where it has half-precision weights alone, they lose their mark, as a folder is loaded by one."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*(f"*{suffix}" for suffix in PICKLES)))
    weights = [file.name for file in target.glob("*.safetensors")]
    if weights and all(".fp16" in name for name in weights):
        for file in list(target.glob("*.fp16*")):
            if file.suffix == ".json":  # the index of shards, which names them
                file.write_text(file.read_text(encoding="utf-8").replace(".fp16", ""), encoding="utf-8")
            file.rename(target / file.name.replace(".fp16", ""))


def _move(aside: Path, folder: Path, card: str) -> None:
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
