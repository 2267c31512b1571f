"""Chooses the config of `distillkit distill` from the command's options, the model's files and the device.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from typing import Any, cast

from distillkit.config.critic_checks import check_previous
from distillkit.config.fit import TooLargeError, estimate, fit
from distillkit.config.layers import lay_over, parse_assignments
from distillkit.config.read import chain, settle
from distillkit.config.settings import Components, Config, Settings
from distillkit.config.wish import Wish, tables_of
from distillkit.errors import ConfigError, DistillkitError
from distillkit.files import readable_bytes
from distillkit.interfaces import PREVIOUS, Engine, Inventory
from distillkit.registry import Registry, checked, load_registry, whole

ADAPTER = {"adapter": "lora"}
"""The `[student]` of one copy of the weights."""
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
) -> tuple[Config, Inventory]:
    """Choose the config of a run.

    Args:
        wish: the options of the command.
        overrides: `--set` assignments, laid over the chosen tables; with `wish.sharpen` over those of both phases, and
            those of phase[0] and phase[1] over one.
        memory: returns the memory, in bytes, of an engine's device.
        registry: where components and presets are looked up.

    Returns:
        The config, and the inventory of the model that it was chosen for.

    Raises:
        ConfigError: the model or an override has mistakes.
        DistillkitError: the method does not exist, needs data or cannot serve these steps, or the memory is too small.
    """
    registry, overrides = registry or load_registry(), list(overrides)
    if wish.sharpen is None:
        settings, inventory = _phase(wish, {}, overrides, memory, registry)
        return Config.of(settings), inventory
    own = [re.match(r"phase\[([01])\]\.(.*)", text) for text in overrides]
    both = [text for text, match in zip(overrides, own, strict=True) if match is None]
    first, second = ([*both, *(match[2] for match in own if match and match[1] == number)] for number in "01")
    # The second one needs more memory, and what its student is, the first one's has to be.
    sharpening = replace(wish, method=wish.sharpen, updates=_shorter(wish, registry))
    started = {"student": {"start": str(PREVIOUS)}}
    after, inventory = _phase(sharpening, started, second, memory, registry)
    adapter = {} if after.adapter is None else {"student": ADAPTER}
    before, inventory = _phase(wish, adapter, first, memory, registry)
    if before.tables["model"] != after.tables["model"]:
        raise DistillkitError(
            f"--sharpen: goes on with students that take the step size, and '{wish.method}' does not teach such; leave "
            "it out, or choose another --method, as best"
        )
    phases = [before, after]
    if mistakes := [*check_previous(phases)]:
        raise ConfigError(mistakes, _origin(wish))
    return chain(wish.name, phases), inventory


def _shorter(wish: Wish, registry: Registry) -> int | None:
    """As many updates for the second phase as its preset has for those of the first one's."""
    known = [registry.preset(name).scale for name in (wish.method, str(wish.sharpen))]
    if wish.updates is None or known[0] is None or known[1] is None:
        return wish.updates
    return max(1, round(known[1].updates / known[0].updates * wish.updates))


def _origin(wish: Wish) -> str:
    return f"distillkit distill {wish.model}"


def _phase(
    wish: Wish,
    more: Mapping[str, Any],
    overrides: list[str],
    memory: Callable[[Engine], float],
    registry: Registry,
) -> tuple[Settings, Inventory]:
    """Choose the settings of a phase, with `more` tables over those that the wish asks for."""
    origin = _origin(wish)
    tables = lay_over(tables_of(wish, registry), more)

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
        return chosen(fit(components, inventory, scale, room, fixed, wish.guidance)), inventory
    except TooLargeError as error:
        smaller: list[dict[str, Any]] = []
        if "engine.type" not in fixed:
            smaller += ({"engine": engine} for engine in _smaller(registry, components.engine.device.type))
        # Student, teacher and critic are then one network.
        if components.critic is not None and components.adapter is None and not error.before_training:
            smaller.append({"student": ADAPTER})
        for less in smaller:
            components = chosen(less).components()
            components.engine.setup()
            inventory = _inventory(components) or inventory
            with suppress(TooLargeError):
                fitted = fit(components, inventory, scale, room, fixed, wish.guidance)
                return chosen(lay_over(less, fitted)), inventory
        raise _with_adapter(error, chosen({}).components(), chosen, room) from None


def _grids(wish: Wish, chosen: Callable[[Mapping[str, Any]], Settings], registry: Registry) -> dict[str, Any]:
    """Tables with the spacing "trailing", which every model has, where it cannot have the preset's."""
    preset = registry.preset(wish.method).tables
    grid = preset.get("grid", {})
    if (spacing := grid.get("spacing")) is None:
        return {}
    trailing = {"spacing": "trailing"}
    both = own = {"grid": trailing}
    source = {"type": preset["source"]["type"]}
    if "spacing" in registry.find("source", source["type"]).command_options:
        both = own | {"source": registry.table("source", source, **trailing)}
    model = chosen(both).components().model
    if model.has_grid(spacing, grid.get("start", "auto")) is False:
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
    smaller = chosen({"student": ADAPTER}).components()
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
