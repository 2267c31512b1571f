"""What the options of `distillkit distill` ask for, and the tables of a config that follow from them alone.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from distillkit.component import Component
from distillkit.config.plan import shares
from distillkit.config.tables import Reader
from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import Schedule, Source, Stage, Target
from distillkit.registry import Registry, UnknownNameError, checked, described, wrong


@dataclass(frozen=True)
class Wish:
    """The options of the command.

    Attributes:
        model: a folder, or an id on the Hugging Face hub.
        steps: the student's sampling steps, K.
        method: the name of a preset.
        updates: parameter updates; None: as many as the preset's scale says.
        guidance: the guidance scale s to sample with (1: none); None: the pipeline's default.
        prompts: a text file with one prompt per line.
        sharpen: the name of a preset with a critic, which goes on with the student in a second phase; None: no such.
    """

    model: str
    steps: int
    method: str
    updates: int | None = None
    guidance: float | None = None
    prompts: Path | None = None
    sharpen: str | None = None

    @property
    def path(self) -> str:
        """The value of `model.path`."""
        folder = Path(self.model)
        return str(folder.absolute()) if folder.is_dir() else self.model

    @property
    def name(self) -> str:
        """The run's name."""
        letters = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.model).resolve().name).strip("-._")
        return f"{letters or 'model'}-{self.steps}-step{'s' * (self.steps != 1)}"


def tables_of(wish: Wish, registry: Registry) -> dict[str, Any]:
    """The tables that follow from the command's options alone.

    Args:
        wish: the options.
        registry: where components and presets are looked up.

    Raises:
        ConfigError: an option has a mistake.
        DistillkitError: the method does not exist, needs data or cannot serve these steps.
    """
    try:
        preset = registry.preset(wish.method)
        source = preset.tables.get("source")
        if source is not None and "data" in registry.find("source", source["type"]).gives:  # type: ignore[attr-defined]
            raise DistillkitError(
                f"--method: '{wish.method}' needs data, and distill is for methods that need none; "
                "write a config with a [data] table, and use distillkit run"
            )
    except UnknownNameError as error:
        raise DistillkitError(f"--method: {error}") from None
    schedule, longer = _schedule(wish, preset.tables, registry)
    scale = preset.scale
    if wish.updates is not None:
        updates = wish.updates
    elif scale is not None:
        updates = round(scale.updates * longer)
    else:
        raise DistillkitError(f"--updates is required: the method '{wish.method}' does not say how many suit it")
    # Absolute, so that the run's config names the same file from any working directory.
    prompts = None if wish.prompts is None else str(wish.prompts.absolute())
    return {
        "preset": wish.method,
        "run": {"name": wish.name, "updates": updates},
        "model": registry.table("model", path=wish.path, prompts=prompts),
        "schedule": schedule,
        "evaluation": {"steps": _evaluated(wish, preset.tables, registry), "export_steps": wish.steps},
        "engine": registry.table("engine"),
    }


def _evaluated(wish: Wish, preset: Mapping[str, Any], registry: Registry) -> list[int]:
    source = cast(Source, _make(registry, "source", preset["source"], f"the preset '{wish.method}'"))
    if not (levels := source.levels):
        # Those in the last three stages: N is halved twice to the last one.
        return [wish.steps, 2 * wish.steps, 4 * wish.steps]
    if wish.steps > max(levels):
        raise DistillkitError(
            f"--steps: is {wish.steps}, and '{wish.method}' teaches {max(levels)} at the most; expected fewer, "
            "or another method, as --method dsd-anchored"
        )
    return sorted({*preset["evaluation"]["steps"], wish.steps})


def _schedule(wish: Wish, preset: Mapping[str, Any], registry: Registry) -> tuple[dict[str, Any], float]:
    """The preset's schedule, changed to end at the student's steps.

    Returns:
        The `[schedule]` table, and the factor by which its trajectories are longer than the preset's. Walking as many
        of them takes that many times more updates.
    """
    table, origin = preset["schedule"], f"the preset '{wish.method}'"
    schedule = cast(Schedule, _make(registry, "schedule", table, origin))
    target = cast(Target, _make(registry, "target", preset["target"], origin))
    deepest = max(steps for steps, _ in shares(schedule))
    stride = target.stride(Stage(deepest, 0))
    if stride == deepest and wish.steps != 1:
        raise DistillkitError(f"--steps: is {wish.steps}, and '{wish.method}' teaches to sample in 1 step; expected 1")
    source = cast(Source, _make(registry, "source", preset["source"], origin))
    if stride in (1, deepest) or source.levels:
        return table, 1.0  # the student's steps do not depend on N
    if (options := schedule.ending_at(stride * wish.steps)) is None:
        raise DistillkitError(
            f"--method: the schedule '{schedule.name}' of '{wish.method}' cannot be set to end at a number of steps; "
            "write a config, and use distillkit run"
        )
    checked(schedule, "ending_at()", options, isinstance(options, Mapping), "options by name, or None")
    table = {**table, **options}
    try:
        ending = shares(cast(Schedule, _make(registry, "schedule", table, origin)))
    except ConfigError as error:
        expected = f"options that it takes ({error.mistakes[0]})"
        raise wrong(schedule, "ending_at()", described(options), expected) from None
    if ending[-1][0] != stride * wish.steps:
        came = f"options with which the last stage has N = {ending[-1][0]}"
        raise wrong(schedule, "ending_at()", came, f"N = {stride * wish.steps}")
    return table, max(steps for steps, _ in ending) / deepest


def _make(registry: Registry, kind: str, table: Mapping[str, Any], origin: str) -> Component:
    reader = Reader(registry)
    choices = reader.choices(kind, table)
    if reader.mistakes:
        raise ConfigError(reader.mistakes, origin)
    return choices[0].make()
