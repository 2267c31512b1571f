"""Checkpoints: the complete state of a run, in safetensors and JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import safetensors.torch
import torch
from pydantic import TypeAdapter

from distillkit import distributed, files
from distillkit.errors import DistillkitError
from distillkit.interfaces import Stateful
from distillkit.training import manifest
from distillkit.training.assemble import Parts
from distillkit.training.journal import Diverged
from distillkit.training.loop import Position
from distillkit.training.manifest import about, check_fits, check_layout, complete, plan_of

STATE = "state.safetensors"
"""The state of teacher, target, critic, source and data. The engines' state has one file per rank."""
POSITION = "position.json"


def save(folder: Path, parts: Parts, position: Position, keep: int) -> Path:
    """Write the checkpoint update-NNNNNN atomically, then delete all but the newest `keep` checkpoints.

    Collective: each rank writes its own file, and the main process the others.

    Args:
        folder: the folder of the run's checkpoints.
        parts: the state to save.
        position: the position of the run.
        keep: number of checkpoints to keep.

    Returns:
        The folder of the checkpoint.

    Raises:
        Diverged: the state is not finite.
        DistillkitError: the checkpoint cannot be written. The existing ones are unchanged.
    """
    final = folder / f"update-{position.update:06d}"
    critic_engine = parts.components.critic_engine
    trained = {**parts.components.engine.state_dict()}
    if critic_engine is not None:
        trained |= _flat({"critic": critic_engine.state_dict()})
    state = _state(parts, position)
    _check_finite({"engine": trained} | state, position.update)

    def begin() -> str:
        folder.mkdir(parents=True, exist_ok=True)
        made = ours.enter_context(files.aside(folder, final.name))
        made.mkdir()
        return str(made)

    def write() -> manifest.Entries:
        mine = []
        if distributed.is_main_process() or parts.components.engine.layout != "replicated":
            mine.append(manifest.rank_file(distributed.rank()))
            safetensors.torch.save_file(_ready(trained), temporary / mine[-1])
        if distributed.is_main_process():
            safetensors.torch.save_file(_ready(_flat(state)), temporary / STATE)
            text = json.dumps(asdict(position) | {"plan": plan_of(parts)}, indent=1)
            (temporary / POSITION).write_text(text + "\n", encoding="utf-8")
            mine += [STATE, POSITION]
        return manifest.entries(temporary, mine)

    def finish() -> None:
        manifest.write(temporary, hashes, about(parts, position))
        files.replace(temporary, final)
        _remove_others(folder, final, keep)

    # All ranks write into the folder that the main process has made, and that it removes if anything fails.
    with ExitStack() as ours:
        temporary = Path(distributed.on_main_process(begin, final))
        hashes = manifest.gather(distributed.on_all_ranks(write, final))
        distributed.on_main_process(finish, final)
    return final


def find(folder: Path, parts: Parts, say: Callable[[str], None]) -> Path | None:
    """Find the newest checkpoint that is intact. A damaged one is reported, and the one before it is tried.

    Args:
        folder: the folder of the run's checkpoints.
        parts: of the run that is resumed.
        say: prints a warning.

    Returns:
        The folder of the checkpoint; None if there are no checkpoints.

    Raises:
        DistillkitError: all checkpoints are damaged, or one was written by another engine or with other sharding.
    """

    def look() -> list[str]:
        files.recover(folder)
        return [path.name for path in complete(folder)]

    checkpoints = [folder / name for name in distributed.on_main_process(look, folder)]
    mine = manifest.rank_file(distributed.rank() if parts.components.engine.layout != "replicated" else 0)
    for path in reversed(checkpoints):
        check_layout(path, parts)
        damage = manifest.damage(path, (mine, STATE, POSITION))
        if not distributed.any_rank(damage is not None):
            return path
        say(f"warning: {path}: this checkpoint is damaged ({damage or 'in a file of another process'}) and is not used")
    if checkpoints:
        raise DistillkitError(
            f"{folder}: all checkpoints are damaged ({len(checkpoints)}): restore one from a backup, or start again in "
            "another folder with --output"
        )
    return None


def restore(path: Path, parts: Parts) -> Position:
    """Load a checkpoint into the parts.

    Args:
        path: the folder of the checkpoint, as `find` returned it.
        parts: of the run that is resumed.

    Returns:
        The position of the run.

    Raises:
        DistillkitError: the checkpoint is damaged, or does not fit the config or the number of processes.
    """
    components = parts.components
    try:
        text = (path / POSITION).read_text(encoding="utf-8")
        position = TypeAdapter(Position).validate_json(text, strict=True)
        check_fits(path, json.loads(text)["plan"], position, parts)
    except (ValueError, RecursionError, KeyError, IndexError, TypeError):
        raise DistillkitError(
            f"{path}: this checkpoint is damaged ({POSITION} is not what a run writes): restore it from a backup, or "
            "delete it, and the run goes on from the one before"
        ) from None
    shared = safetensors.torch.load_file(path / STATE)
    rank = 0 if components.engine.layout == "replicated" else distributed.rank()
    try:
        trained = safetensors.torch.load_file(path / manifest.rank_file(rank))
        if components.critic_engine is not None:
            components.critic_engine.load_state_dict(_of("critic", trained))
        own = {key: value for key, value in trained.items() if not key.startswith("critic/")}
        components.engine.load_state_dict(own)
        if position.done:
            for starting in (components.source, components.target):
                if starting is not None:
                    starting.start_stage(parts.plan[position.stage], parts.student.path)
        for owner, part in _stateful(parts, position).items():
            part.load_state_dict(_of(owner, shared))
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise DistillkitError(
            f"{path}: does not fit the config: {error}; resume with the config that the run was started with"
        ) from error
    return position


def _state(parts: Parts, position: Position) -> dict[str, Mapping[str, torch.Tensor]]:
    """The state of teacher, target, critic, source and data."""
    return {owner: part.state_dict() for owner, part in _stateful(parts, position).items()}


def _stateful(parts: Parts, position: Position) -> dict[str, Stateful]:
    components = parts.components
    # A source has a state only within a stage.
    source = components.source if position.done else None
    data = components.data if "data" in components.source.gives else None
    parts_with_state: dict[str, Stateful | None] = {
        "teacher": components.teacher,
        "target": components.target,
        "critic": components.critic,
        "source": source,
        "data": data,
    }
    return {owner: part for owner, part in parts_with_state.items() if part is not None}


def _flat(states: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {f"{owner}/{key}": value for owner, values in states.items() for key, value in values.items()}


def _of(owner: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{owner}/"): value for key, value in tensors.items() if key.startswith(f"{owner}/")}


def _ready(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as safetensors needs them: contiguous, on the CPU, and without shared memory."""
    ready: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for key, value in tensors.items():
        value = value.detach().cpu().contiguous()
        address = value.untyped_storage().data_ptr()
        ready[key] = value.clone() if address in seen else value
        seen.add(address)
    return ready


def _check_finite(states: Mapping[str, Mapping[str, torch.Tensor]], update: int) -> None:
    """Raise in all processes if the state is not finite in one of them. Such a checkpoint is never written."""
    bad = [f"{owner}/{key}" for owner, state in states.items() for key, v in state.items() if not v.isfinite().all()]
    if distributed.any_rank(bool(bad)):
        what = bad[0] if bad else "the state of another process"
        raise Diverged(f"update {update}: {what} is not finite: the run has diverged; lower optimizer.learning_rate")


def _remove_others(folder: Path, newest: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and those of later updates, which a rollback has left."""
    checkpoints = complete(folder)
    end = checkpoints.index(newest) + 1
    for path in [*checkpoints[: max(end - keep, 0)], *checkpoints[end:]]:
        shutil.rmtree(path)
