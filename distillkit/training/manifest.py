"""What a checkpoint consists of, and whether it is whole and fits a run. manifest.json is written last."""

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
    """The checkpoints in a folder that were written to the end, oldest first; they may be damaged since."""
    numbers = {path: path.name.removeprefix("update-") for path in folder.glob("update-*")}
    return sorted((path for path, number in numbers.items() if number.isdigit()), key=lambda path: int(numbers[path]))


def entries(folder: Path, names: Collection[str]) -> Entries:
    """Sizes and hashes of files."""
    return {name: _entry(folder / name) for name in names}


def gather(own: Entries) -> Entries:
    """The entries of all ranks' files, from those of this rank's own."""
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
    """Write the manifest: `about`, and the files' entries."""
    text = json.dumps({**about, "files": dict(sorted(entries.items()))}, indent=1)
    (folder / NAME).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest."""
    manifest: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
    return manifest


def damage(folder: Path, files: Collection[str]) -> str | None:
    """What is wrong with a checkpoint; None if it is whole.

    Args:
        folder: the checkpoint's.
        files: files whose content is hashed; of the others only the size is checked.
    """
    try:
        entries: Entries = read(folder)["files"]
        if missing := sorted({*files} - entries.keys()):
            return f"{NAME} names no {missing[0]}"
        for name, entry in entries.items():
            if (size := (folder / name).stat().st_size) != entry["bytes"]:
                return f"{name} has {size} bytes and not {entry['bytes']}"
            if name in files and _entry(folder / name)["sha256"] != entry["sha256"]:
                return f"{name} is not what was written: its SHA-256 is another one"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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
    """Check that a checkpoint's state is of this engine and sharded alike, before its files are read.

    Raises:
        DistillkitError: it is not.
    """
    try:
        then = read(path)
        name, layout = then["engine"], then["layout"]
    except (OSError, ValueError, KeyError):  # damaged: `damage` reports it
        return
    engine = parts.components.engine
    if name != engine.name:
        raise DistillkitError(
            f"{path}: was written by the engine '{name}', whose state '{engine.name}' cannot take: resume "
            f'with engine.type = "{name}"'
        )
    if layout != engine.layout:
        raise DistillkitError(
            f"{path}: its state is sharded otherwise ({layout}) than this run's ({engine.layout}): resume with the "
            "engine's options and the number of processes that it was written with"
        )


def check_fits(path: Path, plan: Plan, position: Position, parts: Parts) -> None:
    """Check that a run can go on from a checkpoint: the same samples in flight, and the same stages so far.

    Args:
        path: the checkpoint's folder.
        plan: its stages, as `plan_of` returned them.
        position: its position.
        parts: those of the run that is resumed.

    Raises:
        DistillkitError: it cannot.
    """
    then, now = read(path), about(parts, position)
    if then["batch"] != now["batch"] and position.done and "walk" in parts.components.source.gives:
        raise DistillkitError(
            f"{path}: its {then['batch']} samples (source.batch times processes) are on their way, and this run has "
            f"{now['batch']}: resume with as many"
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
