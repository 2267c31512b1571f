"""The config of `distillkit distill`, from what was asked for, the model's files and the device. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from distillkit.component import Component
from distillkit.config.fit import TooLargeError, fit
from distillkit.config.layers import lay_over, parse_assignments
from distillkit.config.read import settle
from distillkit.config.settings import Settings
from distillkit.config.tables import Reader
from distillkit.errors import DistillkitError
from distillkit.interfaces import Engine, Inventory, Schedule, Stage, Target
from distillkit.registry import Registry, UnknownNameError, load_registry


@dataclass(frozen=True)
class Wish:
    """What was asked for.

    Attributes:
        model: a folder, or a hub's id.
        steps: the student's sampling steps, K.
        method: a preset's name.
        updates: parameter updates; None: by the preset's scale.
        guidance: the scale s to sample with (1: none); None: the pipeline's own.
        prompts: a text file, one prompt a line.
    """

    model: str
    steps: int
    method: str
    updates: int | None = None
    guidance: float | None = None
    prompts: Path | None = None

    @property
    def path(self) -> str:
        """The model as the config names it."""
        folder = Path(self.model)
        return str(folder.absolute()) if folder.is_dir() else self.model

    @property
    def name(self) -> str:
        """The run's."""
        letters = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(self.model).resolve().name).strip("-._")
        return f"{letters or 'model'}-{self.steps}-step{'s' * (self.steps != 1)}"


def choose(
    wish: Wish, overrides: Iterable[str], memory: Callable[[Engine], float], registry: Registry | None = None
) -> tuple[Settings, Inventory]:
    """The settings, and what they were chosen for.

    Args:
        wish: what was asked for.
        overrides: `--set` assignments, laid over whatever is chosen.
        memory: an engine -> the bytes of its device's memory.
        registry: where components and presets are looked up.

    Raises:
        ConfigError: the model, or an override, is not right.
        DistillkitError: the method is none, needs data or cannot serve these steps, or the memory is too small.
    """
    registry, overrides, origin = registry or load_registry(), list(overrides), f"distillkit distill {wish.model}"
    tables = _asked(wish, registry)

    def chosen(more: Mapping[str, Any]) -> Settings:
        return settle(lay_over(tables, more), wish.name, overrides, registry, origin)

    components = chosen({}).components()
    inventory = components.model.inventory(components.student)
    if inventory is None:
        raise DistillkitError(f"{origin}: the size of the model is not known; write a config, and use distillkit run")
    fixed = {assignment.key for assignment in parse_assignments(overrides)[0]}
    scale, room = registry.scales.get(wish.method), memory(components.engine)
    try:
        fitted = fit(components, inventory, scale, room, fixed, wish.guidance)
    except TooLargeError:
        for engine in () if "engine.type" in fixed else _smaller(registry, components.engine.device.type):
            tables["engine"] = engine
            components = chosen({}).components()
            components.engine.setup()
            with suppress(TooLargeError):
                fitted = fit(components, inventory, scale, room, fixed, wish.guidance)
                break
        else:
            raise
    return chosen(fitted), inventory


def _smaller(registry: Registry, device_type: str) -> list[dict[str, Any]]:
    """Tables of engines that take less of a device's memory."""
    engines = cast(list[type[Engine]], registry.classes("engine"))
    return [{"type": engine.name, **options} for engine in engines for options in engine.memory_saving(device_type)]


def _asked(wish: Wish, registry: Registry) -> dict[str, Any]:
    """Tables that follow from the wish alone."""
    try:
        preset = registry.preset(wish.method)
        if "source" in preset and "data" in registry.find("source", preset["source"]["type"]).gives:  # type: ignore[attr-defined]
            raise DistillkitError(
                f"--method: '{wish.method}' needs data, and distill is for methods that need none; "
                "write a config with a [data] table, and use distillkit run"
            )
    except UnknownNameError as error:
        raise DistillkitError(f"--method: {error}") from None
    schedule, longer = _schedule(wish, preset, registry)
    scale = registry.scales.get(wish.method)
    if wish.updates is not None:
        updates = wish.updates
    elif scale is not None:
        updates = round(scale.updates * longer)
    else:
        raise DistillkitError(f"--updates is required: the method '{wish.method}' does not say how many suit it")
    # From wherever the run's config is read, they are the same files.
    prompts = {} if wish.prompts is None else {"prompts_file": str(wish.prompts.absolute())}
    return {
        "preset": wish.method,
        "run": {"name": wish.name, "updates": updates},
        "model": {"type": registry.default("model"), "path": wish.path} | prompts,
        "schedule": schedule,
        # The steps that a fall of two halvings teaches.
        "evaluation": {"steps": [wish.steps, 2 * wish.steps, 4 * wish.steps], "export_steps": wish.steps},
        "engine": {"type": registry.default("engine"), "precision": "auto"},
    }


def _schedule(wish: Wish, preset: Mapping[str, Any], registry: Registry) -> tuple[dict[str, Any], float]:
    """The preset's schedule, ending where the student samples in the steps that were asked for.

    Returns:
        its options; and by what factor its trajectories are longer than the preset's, as it then takes so many more
        updates to walk as many of them.
    """
    table = preset["schedule"]
    schedule = cast(Schedule, _make(registry, "schedule", table))
    target = cast(Target, _make(registry, "target", preset["target"]))
    deepest = max(steps for steps, _ in schedule.shares())
    stride = target.stride(Stage(deepest, 0))
    if stride == deepest and wish.steps != 1:
        raise DistillkitError(f"--steps: is {wish.steps}, and '{wish.method}' teaches to sample in 1 step; expected 1")
    if stride in (1, deepest):
        return table, 1.0  # N says nothing of the student's steps
    if (options := schedule.ending_at(stride * wish.steps)) is None:
        raise DistillkitError(
            f"--method: the schedule '{schedule.name}' of '{wish.method}' cannot be set to end at a number of steps; "
            "write a config, and use distillkit run"
        )
    table = {**table, **options}
    ending = cast(Schedule, _make(registry, "schedule", table))
    return table, max(steps for steps, _ in ending.shares()) / deepest


def _make(registry: Registry, kind: str, table: Mapping[str, Any]) -> Component:
    [choice] = Reader(registry).choices(kind, table)
    return choice.make()
