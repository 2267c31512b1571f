"""Checkpoints: everything that the rest of a run depends on, in safetensors and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch

from distillkit import distributed, files
from distillkit.errors import DistillkitError
from distillkit.interfaces import Stateful
from distillkit.training import manifest
from distillkit.training.assemble import Parts
from distillkit.training.journal import Diverged
from distillkit.training.loop import Position
from distillkit.training.manifest import about, check_fits, check_layout, complete, plan_of

STATE = "state.safetensors"
"""What teacher, target and source name as their state. An engine's is in files of its own, one for each rank."""
POSITION = "position.json"


def save(folder: Path, parts: Parts, position: Position, keep: int) -> Path:
    """Write checkpoints/update-NNNNNN, aside first; older ones than the newest `keep` go once it is complete.

    Every rank takes part: each writes the file that is its own, and the first one the rest.

    Raises:
        Diverged: something in it is not finite.
        DistillkitError: it cannot be written; those that were there before are as they were.
    """
    final = folder / f"update-{position.update:06d}"
    aside = files.partial(final)
    engine, state = parts.components.engine.state_dict(), _state(parts, position)
    _check_finite({"engine": engine} | state, position.update)

    def begin() -> None:
        for leftover in folder.glob(".*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir(parents=True)

    def write() -> manifest.Entries:
        mine = []
        if distributed.is_main_process() or parts.components.engine.layout != "replicated":
            mine.append(manifest.rank_file(distributed.rank()))
            safetensors.torch.save_file(_ready(engine), aside / mine[-1])
        if distributed.is_main_process():
            flat = {f"{owner}/{key}": value for owner, values in state.items() for key, value in values.items()}
            safetensors.torch.save_file(_ready(flat), aside / STATE)
            text = json.dumps(asdict(position) | {"plan": plan_of(parts)}, indent=1)
            (aside / POSITION).write_text(text + "\n", encoding="utf-8")
            mine += [STATE, POSITION]
        return manifest.entries(aside, mine)

    def finish() -> None:
        manifest.write(aside, hashes, about(parts, position))
        files.replace(aside, final)
        _remove_others(folder, final, keep)

    try:
        distributed.on_main_process(begin, final)
        hashes = manifest.gather(distributed.on_all_ranks(write, final))
        distributed.on_main_process(finish, final)
    except DistillkitError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return final


def find(folder: Path, parts: Parts, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole. One that is not is named, and the one before is looked at.

    Returns:
        its folder; None if none was made yet.

    Raises:
        DistillkitError: there are checkpoints, and none is whole; or one is of another engine, or sharded otherwise.
    """

    def look() -> list[Path]:
        files.recover(folder)
        return complete(folder)

    there = distributed.on_main_process(look, folder)
    mine = manifest.rank_file(distributed.rank() if parts.components.engine.layout != "replicated" else 0)
    for path in reversed(there):
        check_layout(path, parts)
        damage = manifest.damage(path, (mine, STATE, POSITION))
        if not distributed.any_rank(damage is not None):
            return path
        say(f"warning: {path}: this checkpoint is damaged ({damage or 'in a file of another process'}): not used")
    if there:
        raise DistillkitError(
            f"{folder}: no checkpoint in it is whole ({len(there)} damaged): put one back from a copy, or begin anew "
            "in another folder with --output"
        )
    return None


def restore(path: Path, parts: Parts) -> Position:
    """Put a checkpoint's state back into the parts.

    Args:
        path: its folder, which `find` has found whole.

    Raises:
        DistillkitError: the config, or the number of processes, is another one, to which it does not fit.
    """
    components = parts.components
    written = json.loads((path / POSITION).read_text(encoding="utf-8"))
    plan = written.pop("plan")
    position = Position(**written)
    check_fits(path, plan, position, parts)
    shared = safetensors.torch.load_file(path / STATE)
    rank = 0 if components.engine.layout == "replicated" else distributed.rank()
    try:
        components.engine.load_state_dict(safetensors.torch.load_file(path / manifest.rank_file(rank)))
        if position.done:
            for starting in (components.source, components.target):
                if starting is not None:
                    starting.start_stage(parts.plan[position.stage], parts.student.path)
        for owner, part in _stateful(parts, position).items():
            part.load_state_dict(_of(owner, shared))
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise DistillkitError(
            f"{path}: does not fit the config: {error}; go on with the config that the run began with"
        ) from error
    return position


def _state(parts: Parts, position: Position) -> dict[str, Mapping[str, torch.Tensor]]:
    """All but the engine's."""
    return {owner: part.state_dict() for owner, part in _stateful(parts, position).items()}


def _stateful(parts: Parts, position: Position) -> dict[str, Stateful]:
    components = parts.components
    # Between stages a source has nothing to go on with; before the first one, it has no state.
    source = components.source if position.done else None
    owners = {"teacher": components.teacher, "target": components.target, "source": source}
    return {owner: part for owner, part in owners.items() if part is not None}


def _of(owner: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{owner}/"): value for key, value in tensors.items() if key.startswith(f"{owner}/")}


def _ready(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, as safetensors wants them: what shares memory with another one is copied, and nothing else."""
    found: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        found[key] = value.clone() if place in seen else value
        seen.add(place)
    return found


def _check_finite(states: Mapping[str, Mapping[str, torch.Tensor]], update: int) -> None:
    """The last line of defence: a checkpoint that is not finite is never written, by any rank."""
    bad = [f"{owner}/{key}" for owner, state in states.items() for key, v in state.items() if not v.isfinite().all()]
    if distributed.any_rank(bool(bad)):
        what = bad[0] if bad else "the state of another process"
        raise Diverged(f"update {update}: {what} is not finite: the run has diverged; lower optimizer.learning_rate")


def _remove_others(folder: Path, newest: Path, keep: int) -> None:
    """Checkpoints before the newest `keep`, and those of later updates, which the run has gone back behind."""
    there = complete(folder)
    at = there.index(newest) + 1
    for path in [*there[: max(at - keep, 0)], *there[at:]]:
        shutil.rmtree(path)
