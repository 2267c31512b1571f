"""Whether a checkpoint fits the run that wants to go on from it: its engine, its processes, its stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillkit import __version__, distributed
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
        "layout": parts.settings.engine.layout,
        "world_size": distributed.world_size(),
        "batch": parts.settings.source.options.batch * distributed.world_size(),
    }


def check_layout(path: Path, parts: Parts) -> None:
    """Whether a checkpoint's state is of this engine, and cut as it cuts; before its files are looked at.

    Raises:
        DistillkitError: it is not.
    """
    try:
        then = manifest.read(path)
        name, layout = then["engine"], then["layout"]
    except (OSError, ValueError, KeyError):  # damaged, which is said elsewhere
        return
    engine = parts.settings.engine
    if name != engine.name:
        raise DistillkitError(
            f"{path}: was written by the engine '{name}', whose state '{engine.name}' cannot take: resume "
            f'with engine.type = "{name}"'
        )
    if layout != engine.layout:
        raise DistillkitError(
            f"{path}: its state is cut otherwise ({layout}) than this run's ({engine.layout}): resume with the "
            "engine's options and the number of processes that it was written with"
        )


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
