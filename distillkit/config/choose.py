"""Chooses the config of `distillkit distill` from the command's options, the model's files and the device.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, cast

from distillkit.component import Component
from distillkit.config.fit import TooLargeError, estimate, fit
from distillkit.config.layers import lay_over, parse_assignments
from distillkit.config.plan import shares
from distillkit.config.read import settle
from distillkit.config.settings import Components, Settings
from distillkit.config.tables import Reader
from distillkit.errors import ConfigError, DistillkitError
from distillkit.files import readable_bytes
from distillkit.interfaces import Engine, Inventory, Schedule, Source, Stage, Target
from distillkit.registry import Registry, UnknownNameError, checked, described, load_registry, whole, wrong

OF = {
    "parameters": "parameters",
    "frozen": "parameters",
    "adapter": "parameters",
    "encoders": "bytes",
    "size": "pixels",
}
"""What the numbers of an inventory count."""


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
    """

    model: str
    steps: int
    method: str
    updates: int | None = None
    guidance: float | None = None
    prompts: Path | None = None

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


def choose(
    wish: Wish, overrides: Iterable[str], memory: Callable[[Engine], float], registry: Registry | None = None
) -> tuple[Settings, Inventory]:
    """Choose the settings of a run.

    Args:
        wish: the options of the command.
        overrides: `--set` assignments, laid over the chosen tables.
        memory: returns the memory, in bytes, of an engine's device.
        registry: where components and presets are looked up.

    Returns:
        The settings, and the inventory of the model that they were chosen for.

    Raises:
        ConfigError: the model or an override has mistakes.
        DistillkitError: the method does not exist, needs data or cannot serve these steps, or the memory is too small.
    """
    registry, overrides, origin = registry or load_registry(), list(overrides), f"distillkit distill {wish.model}"
    tables = _asked(wish, registry)

    def chosen(more: Mapping[str, Any]) -> Settings:
        return settle(lay_over(tables, more), wish.name, overrides, registry, origin)

    components = chosen({}).components()
    inventory = _inventory(components)
    if inventory is None:
        raise DistillkitError(f"{origin}: the size of the model is not known; write a config, and use distillkit run")
    fixed = {assignment.key for assignment in parse_assignments(overrides)[0]}
    scale, room = registry.preset(wish.method).scale, memory(components.engine)
    try:
        fitted = fit(components, inventory, scale, room, fixed, wish.guidance)
    except TooLargeError as error:
        asked = tables["engine"]
        for engine in () if "engine.type" in fixed else _smaller(registry, components.engine.device.type):
            tables["engine"] = engine
            components = chosen({}).components()
            components.engine.setup()
            with suppress(TooLargeError):
                fitted = fit(components, inventory, scale, room, fixed, wish.guidance)
                break
        else:
            tables["engine"] = asked
            raise _with_adapter(error, components, chosen, room) from None
    return chosen(fitted), inventory


def _inventory(components: Components) -> Inventory | None:
    """What the model's files say of it.

    Raises:
        PartError: it is no inventory, or has no such sizes.
    """
    model, what = components.model, "inventory()"
    found = model.inventory(components.adapter)
    if found is None:
        return None
    checked(model, what, found, isinstance(found, Inventory), "an Inventory, or None")
    least = {"parameters": 1, "frozen": 0, "adapter": 0, "encoders": 0} | ({} if found.size is None else {"size": 1})
    for name, number in least.items():
        whole(model, f"{what}.{name}", getattr(found, name), OF[name], number)
    guidance = found.guidance
    fits = isinstance(guidance, int | float) and isfinite(guidance) and guidance >= 0
    checked(model, f"{what}.guidance", guidance, fits, "a finite number, at least 0")
    return found


def _with_adapter(
    error: TooLargeError, components: Components, chosen: Callable[[Mapping[str, Any]], Settings], memory: float
) -> TooLargeError:
    """The error, with the advice to train an adapter, if that fits."""
    if components.adapter is not None:
        return error
    smaller = chosen({"student": {"adapter": "lora"}}).components()
    smaller.engine.setup()
    inventory = _inventory(smaller)
    if inventory is None or not inventory.adapter or error.before_training:
        return error
    needed = estimate(smaller, inventory).total
    if needed > memory:
        return error
    advice = f"train an adapter, with which they take {readable_bytes(needed)} (--set student.adapter=lora), "
    return TooLargeError(error.fact, advice + error.advice)


def _smaller(registry: Registry, device_type: str) -> list[dict[str, Any]]:
    """`[engine]` tables that take less of a device's memory."""
    tables, expected = [], "tables of options"
    for engine in cast(list[type[Engine]], registry.classes("engine")):
        saving, name = engine.memory_saving(device_type), registry.name_of("engine", engine)
        for options in checked(engine, "memory_saving()", saving, isinstance(saving, Iterable), expected):
            checked(engine, "memory_saving()", options, isinstance(options, Mapping), expected)
            tables.append({"type": name, **options})
    return tables


def _asked(wish: Wish, registry: Registry) -> dict[str, Any]:
    """The tables that follow from the command's options alone."""
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
            f"--steps: is {wish.steps}, and '{wish.method}' teaches {max(levels)} at the most; expected fewer"
        )
    return sorted({*levels, wish.steps})


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
    if stride in (1, deepest):
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
