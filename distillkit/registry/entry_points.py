"""Loads plugins from the entry points of the group `distillkit`. A broken plugin does not stop the others."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from distillkit import hookspecs

GROUP = "distillkit"
OURS = "distillkit"
"""The package that the core comes with."""


@dataclass(frozen=True)
class Plugin:
    """A plugin, and the distribution that installed it."""

    name: str
    package: str
    version: str


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that does not load or does not work, and the reason."""

    name: str
    package: str
    version: str
    reason: str


def load_plugins() -> tuple[pluggy.PluginManager, dict[str, Plugin], list[BrokenPlugin]]:
    """Load all plugins.

    Returns:
        The plugin manager; the plugin behind each of its names; the plugins that failed.
    """
    manager = pluggy.PluginManager("distillkit")
    manager.add_hookspecs(hookspecs)
    plugins: dict[str, Plugin] = {}
    broken: list[BrokenPlugin] = []
    for entry_point, plugin in installed():
        # Two distributions may use the same name for an entry point; pluggy needs unique names.
        key = f"{plugin.package}:{plugin.name}"
        try:
            module = entry_point.load()
            if first := manager.get_name(module):
                raise ImportError(f"the module {entry_point.value} is already the plugin {first}")
            manager.register(module, name=key)
        except (Exception, SystemExit) as error:
            if manager.has_plugin(key):  # a hook with a wrong signature: pluggy stops half-way
                manager.unregister(name=key)
            broken.append(report(plugin, describe(error)))
            continue
        plugins[key] = plugin
        if fault := _faulty_hooks(manager, key):
            broken.append(report(plugin, fault))
    return manager, plugins, broken


def report(plugin: Plugin, reason: str) -> BrokenPlugin:
    """The report of a plugin that does not work."""
    return BrokenPlugin(plugin.name, plugin.package, plugin.version, reason)


def describe(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def installed() -> Iterator[tuple[EntryPoint, Plugin]]:
    """The entry points: distillkit's own first, then the others by package. Each distribution counts once."""
    plugins = []
    for entry_point in entry_points(group=GROUP):
        distribution = entry_point.dist
        assert distribution is not None  # set for all that importlib finds
        plugins.append((entry_point, Plugin(entry_point.name, distribution.name, distribution.version)))
    return iter(sorted(plugins, key=lambda pair: (pair[1].package != OURS, pair[1].package, pair[1].name)))


def _faulty_hooks(manager: pluggy.PluginManager, key: str) -> str | None:
    """What keeps functions of a plugin from being called."""
    plugin: Any = manager.get_plugin(key)
    functions = [
        name
        for name, value in getattr(plugin, "__dict__", {}).items()
        if name.startswith("distillkit_") and inspect.isfunction(value) and not hasattr(value, "distillkit_impl")
    ]
    if functions:
        return f"without @hookimpl, distillkit does not call what it defines: {', '.join(functions)}"
    callers = manager.get_hookcallers(plugin) or []
    if not callers:
        return "it has no function with @hookimpl, so that distillkit uses nothing of it"
    if unknown := sorted(caller.name for caller in callers if not caller.has_spec()):
        return f"it implements hooks that distillkit does not have: {', '.join(unknown)}"
    return None
