"""The manifest of a checkpoint: lists its files, to detect damage, and describes the run that it fits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from distillkit import __version__, distributed
from distillkit.errors import DistillkitError
from distillkit.training.assemble import Parts
from distillkit.training.loop import Position

NAME = "manifest.json"

Entries = dict[str, dict[str, Any]]
"""File -> {"sha256", "bytes"}."""

Plan = list[dict[str, int]]
"""Steps, stride and updates of each stage."""


def rank_file(rank: int) -> str:
    """The file of a rank's engine state."""
    return f"rank-{rank:05d}.safetensors"


def complete(folder: Path) -> list[Path]:
    """The checkpoints in a folder that were written completely, oldest first. They may have been damaged since."""
    numbers = {path: path.name.removeprefix("update-") for path in folder.glob("update-*")}
    return sorted((path for path, number in numbers.items() if number.isdigit()), key=lambda path: int(numbers[path]))


def entries(folder: Path, names: Collection[str]) -> Entries:
    """Sizes and hashes of files."""
    return {name: _entry(folder / name) for name in names}


def gather(own: Entries) -> Entries:
    """The entries of all ranks' files, from those of this rank. Collective."""
    # The other ranks write one file each, and the main process needs its size and hash.
    last = own.get(rank_file(distributed.rank()), {"sha256": "", "bytes": 0})
    entry = torch.tensor([[last["bytes"], *(bytes.fromhex(last["sha256"]) or bytes(32))]])
    for rank, (size, *digest) in enumerate(distributed.all_gather(entry).tolist()):
        if size:
            own = own | {rank_file(rank): {"sha256": bytes(digest).hex(), "bytes": size}}
    return own


def _entry(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        return {"sha256": hashlib.file_digest(content, "sha256").hexdigest(), "bytes": file.stat().st_size}


def write(folder: Path, entries: Entries, about: Mapping[str, Any]) -> None:
    """Write the manifest, with the entries of the files."""
    text = json.dumps({**about, "files": dict(sorted(entries.items()))}, indent=1)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read.
    """
    manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError("it is no JSON object")
    return manifest


def damage(folder: Path, files: Collection[str]) -> str | None:
    """Describe the damage to a checkpoint; None if it is intact.

    Args:
        folder: the folder of the checkpoint.
        files: the files whose hashes are checked. Of the others, only the size is checked.
    """
    try:
        entries: Entries = read(folder)["files"]
        if missing := sorted({*files} - entries.keys()):
            return f"{NAME} names no {missing[0]}"
        for name, entry in entries.items():
            if (size := (folder / name).stat().st_size) != entry["bytes"]:
                return f"{name} has {size} bytes instead of {entry['bytes']}"
            if name in files and _entry(folder / name)["sha256"] != entry["sha256"]:
                return f"{name} has changed: its SHA-256 differs"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        return f"{NAME} cannot be read: {error}"
    return None


def plan_of(parts: Parts) -> Plan:
    """The stages, as position.json has them."""
    return [{"steps": stage.steps, "stride": stage.stride, "updates": stage.updates} for stage in parts.plan]


def about(parts: Parts, position: Position) -> dict[str, Any]:
    """The entries of a checkpoint's manifest besides its files."""
    return {
        "distillkit": __version__,
        "update": position.update,
        "engine": parts.components.engine.name,
        "layout": parts.components.engine.layout,
        "world_size": distributed.world_size(),
        "batch": parts.components.source.options.batch * distributed.world_size(),
    }


def check_layout(path: Path, parts: Parts) -> None:
    """Check the engine and the sharding of a checkpoint, before its files are read.

    Raises:
        DistillkitError: it was written by another engine, or with other sharding.
    """
    try:
        then = read(path)
        name, layout = then["engine"], then["layout"]
    except (OSError, ValueError, RecursionError, KeyError):  # damaged: `damage` reports it
        return
    engine = parts.components.engine
    if name != engine.name:
        raise DistillkitError(
            f"{path}: was written by the engine '{name}', whose state '{engine.name}' cannot load: resume "
            f'with engine.type = "{name}"'
        )
    if layout != engine.layout:
        raise DistillkitError(
            f"{path}: its state is sharded differently ({layout}) from this run's ({engine.layout}): resume with the "
            "engine options and the number of processes that it was written with"
        )


def check_fits(path: Path, plan: Plan, position: Position, parts: Parts) -> None:
    """Check that a run can be resumed from a checkpoint: it needs the same batch, and the same stages so far.

    Args:
        path: the checkpoint's folder.
        plan: the checkpoint's stages, as `plan_of` returned them.
        position: the checkpoint's position.
        parts: of the run that is resumed.

    Raises:
        DistillkitError: the run cannot be resumed.
    """
    then, now = read(path), about(parts, position)
    if then["batch"] != now["batch"] and position.done and "walk" in parts.components.source.gives:
        raise DistillkitError(
            f"{path}: was written with {then['batch']} samples per batch (source.batch times processes), and this run "
            f"has {now['batch']}: resume with as many"
        )
    stage, new = position.stage, plan_of(parts)
    same = new[:stage] == plan[:stage] and len(new) > stage
    if same and position.done:
        longer = new[stage]["updates"] >= position.done
        same = longer and new[stage] | {"updates": 0} == plan[stage] | {"updates": 0}
    if not same:
        raise DistillkitError(
            f"{path}: the stages were {_written(plan)}, and are {_written(new)} now: what the run has done until "
            f"update {position.update} does not fit; change only what is yet to come"
        )


def _written(plan: Plan) -> str:
    return ", ".join(f"N = {stage['steps']} (stride {stage['stride']}, updates {stage['updates']})" for stage in plan)
