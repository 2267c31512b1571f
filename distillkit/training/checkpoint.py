"""Checkpoints: everything that the rest of a run depends on, in safetensors and JSON."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from distillkit import workers
from distillkit.errors import DistillkitError
from distillkit.training.assemble import Parts
from distillkit.training.divergence import Diverged
from distillkit.training.loop import Position

TENSORS = "state.safetensors"
POSITION = "position.json"


def save(folder: Path, parts: Parts, position: Position, keep: int) -> Path:
    """Write checkpoints/update-NNNNNN, aside first; older ones than the newest `keep` go once it is complete.

    Raises:
        Diverged: something in it is not finite.
    """
    final = folder / f"update-{position.update:06d}"
    aside = folder / f".{final.name}.partial"
    tensors = {
        f"{owner}/{key}": value.detach().cpu().contiguous().clone()
        for owner, state in _states(parts, position).items()
        for key, value in state.items()
    }
    for key, value in tensors.items():
        if not value.isfinite().all():
            raise Diverged(
                f"update {position.update}: {key} is not finite: the run has diverged; lower optimizer.learning_rate"
            )
    if not workers.is_first():
        return final
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(tensors, aside / TENSORS)
    (aside / POSITION).write_text(json.dumps(asdict(position)), encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(aside, final)
    for old in complete(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def complete(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(folder.glob("update-*"), key=lambda path: int(path.name.removeprefix("update-")))


def restore(folder: Path, parts: Parts) -> Position:
    """Put the newest checkpoint's state back into the parts; a run that has none yet begins anew.

    Raises:
        DistillkitError: the checkpoint cannot be read.
    """
    found = complete(folder)
    if not found:
        return Position()
    newest = found[-1]
    try:
        position = Position(**json.loads((newest / POSITION).read_text(encoding="utf-8")))
        tensors = load_file(newest / TENSORS)
    except Exception as error:
        raise DistillkitError(
            f"{newest}: this checkpoint cannot be read ({error}); delete it to use the one before"
        ) from error
    settings = parts.settings
    settings.engine.load_state_dict(_of("engine", tensors))
    if settings.teacher is not None:
        settings.teacher.load_state_dict(_of("teacher", tensors))
    if position.done:
        planned = parts.plan[position.stage]
        settings.source.start_stage(planned.stage, planned.stride, settings.model.path)
        settings.source.load_state_dict(_of("source", tensors))
        if settings.target is not None:
            settings.target.start_stage(planned.stage, planned.stride, settings.model.path)
    if settings.target is not None:
        settings.target.load_state_dict(_of("target", tensors))
    return position


def _states(parts: Parts, position: Position) -> dict[str, Mapping[str, Tensor]]:
    settings = parts.settings
    teacher = {} if settings.teacher is None else settings.teacher.state_dict()
    target = {} if settings.target is None else settings.target.state_dict()
    # Between stages a source has nothing to go on with; before the first one, it has no state.
    source = settings.source.state_dict() if position.done else {}
    return {"engine": settings.engine.state_dict(), "teacher": teacher, "target": target, "source": source}


def _of(owner: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{owner}/"): value for key, value in tensors.items() if key.startswith(f"{owner}/")}
