"""Chooses the config of `distillkit distill` from the command's options, the model's files and the device.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import isfinite
from typing import Any, cast

from distillkit.config.fit import TooLargeError, estimate, fit
from distillkit.config.layers import lay_over, parse_assignments
from distillkit.config.read import settle
from distillkit.config.settings import Components, Settings
from distillkit.config.wish import Wish, tables_of
from distillkit.errors import DistillkitError
from distillkit.files import readable_bytes
from distillkit.interfaces import Engine, Inventory
from distillkit.registry import Registry, checked, load_registry, whole

OF = {
    "parameters": "parameters",
    "frozen": "parameters",
    "adapter": "parameters",
    "encoders": "bytes",
    "size": "pixels",
}
"""What the numbers of an inventory count."""


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
    tables = tables_of(wish, registry)

    def chosen(more: Mapping[str, Any]) -> Settings:
        return settle(lay_over(tables, more), wish.name, overrides, registry, origin)

    tables |= _grids(wish, chosen, registry)
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


def _grids(wish: Wish, chosen: Callable[[Mapping[str, Any]], Settings], registry: Registry) -> dict[str, Any]:
    """Tables with the spacing "trailing", which every model has, where it cannot have the preset's."""
    preset = registry.preset(wish.method).tables
    if (spacing := preset.get("grid", {}).get("spacing")) is None:
        return {}
    trailing = {"spacing": "trailing"}
    both = own = {"grid": trailing}
    source = {"type": preset["source"]["type"]}
    if "spacing" in registry.find("source", source["type"]).command_options:
        both = own | {"source": registry.table("source", source, **trailing)}
    model = chosen(both).components().model
    if model.has_grid(spacing) is False:
        return both
    return own if model.can_export(spacing) is False else {}


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
