"""Whether a checkpoint fits the run that wants to go on from it: its engine, its processes, its stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillkit import __version__, workers
from distillkit.errors import DistillkitError
from distillkit.training import manifest
from distillkit.training.assemble import Parts
from distillkit.training.loop import Position


def plan_of(parts: Parts) -> list[list[int]]:
    """The stages: N, stride, updates."""
    return [[planned.stage.steps, planned.stride, planned.stage.updates] for planned in parts.plan]


def about(parts: Parts, position: Position) -> dict[str, Any]:
    """What a checkpoint's manifest says of it besides its files."""
    return {
        "distillkit": __version__,
        "update": position.update,
        "engine": parts.settings.engine.name,
        "world_size": workers.count(),
        "batch": parts.settings.source.options.batch * workers.count(),
    }


def check_fits(path: Path, plan: list[list[int]], position: Position, parts: Parts) -> None:
    """What of a checkpoint must be as it was.

    Args:
        path: its folder.
        plan: its stages, as `plan_of` gave them.
        position: where the run stood.
        parts: those of the run that wants to go on.

    Raises:
        DistillkitError: it does not fit.
    """
    then, now = manifest.read(path), about(parts, position)
    if then["engine"] != now["engine"]:
        raise DistillkitError(
            f"{path}: was written by the engine '{then['engine']}', whose state '{now['engine']}' cannot take: resume "
            f'with engine.type = "{then["engine"]}"'
        )
    processes = then["world_size"]
    if processes != now["world_size"] and not parts.settings.engine.replicated:
        raise DistillkitError(
            f"{path}: was written by {processes} processes, each of which has a part of the state, and these are "
            f"{now['world_size']}: resume with {processes} processes"
        )
    if then["batch"] != now["batch"] and position.done and parts.settings.source.walks:
        raise DistillkitError(
            f"{path}: its {then['batch']} samples (source.batch times processes) are on their way, and this run has "
            f"{now['batch']}: resume with as many"
        )
    stage, new = position.stage, plan_of(parts)
    same = new[:stage] == plan[:stage] and len(new) > stage
    if same and position.done:
        same = new[stage][:2] == plan[stage][:2] and new[stage][2] >= position.done
    if not same:
        raise DistillkitError(
            f"{path}: the stages [N, stride, updates] were {plan}, and are {new} now: what the run has done until "
            f"update {position.update} does not fit; change only what is yet to come"
        )
