"""Collects what the installed plugins contribute. A plugin that fails is reported, and the others still work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from distillkit.lazy import lazy_imports
from distillkit.registry.entry_points import Plugin, describe, load_plugins, report
from distillkit.registry.kinds import KINDS, Kind
from distillkit.registry.lookup import Registered, Registry, Scale

PRESETS = "distillkit_presets"


def load_registry() -> Registry:
    """Load all components and presets of the installed plugins."""
    with lazy_imports():
        return _load()


def _load() -> Registry:
    manager, plugins, broken = load_plugins()
    registry = Registry({kind: {} for kind in KINDS}, {}, broken)
    add: dict[str, Callable[[Registry, Plugin, Any], None]] = {
        kind.hook: partial(_add_components, kind) for kind in KINDS.values()
    }
    add[PRESETS] = _add_presets
    for hook in add:
        # One by one, because a call of the hook would stop at the first plugin that fails.
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            plugin = plugins[implementation.plugin_name]
            try:
                add[hook](registry, plugin, implementation.function())
            except (Exception, SystemExit) as error:
                broken.append(report(plugin, f"{hook}: {describe(error)}"))
    return registry


def _add_components(kind: Kind, registry: Registry, plugin: Plugin, classes: Any) -> None:
    for component in classes:
        if fault := _fault(kind, component):
            registry.broken.append(report(plugin, f"{kind.hook}: {fault}"))
            continue
        claims = registry.components[kind.name].setdefault(component.name, [])
        claims.append(Registered(kind.name, component.name, component, plugin))


def _add_presets(registry: Registry, plugin: Plugin, presets: Any) -> None:
    for name, tables in presets.items():
        if not isinstance(tables, Mapping):
            registry.broken.append(report(plugin, f"{PRESETS}: '{name}' is not a table of tables"))
            continue
        rest = dict(tables)
        if (scale := rest.pop("scale", None)) is not None:
            registry.scales[name] = Scale(**scale)
        registry.presets.setdefault(name, []).append((plugin, rest))


def _fault(kind: Kind, component: Any) -> str | None:
    """Why a contributed object cannot be a component of its kind; None if it can."""
    label = getattr(component, "__name__", repr(component))
    if not (inspect.isclass(component) and issubclass(component, kind.base)):
        return f"{label} is not a subclass of distillkit.interfaces.{kind.base.__name__}"
    if not isinstance(getattr(component, "name", None), str):
        return f"{label} has no `name`"
    if missing := sorted(component.__abstractmethods__):
        return f"{label} lacks {', '.join(missing)}"
    return None
