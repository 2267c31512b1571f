"""Collects what the installed plugins contribute. A plugin that fails is reported, and the others still work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any

from distillkit.component import Component
from distillkit.lazy import lazy_imports
from distillkit.registry.entry_points import Plugin, describe, load_plugins, report
from distillkit.registry.kinds import KINDS, Kind
from distillkit.registry.lookup import Preset, Registered, Registry, Scale

PRESETS = "distillkit_presets"
STATE = ("state_dict", "load_state_dict")


def load_registry() -> Registry:
    """Load all components and presets of the installed plugins."""
    with lazy_imports():
        return _load()


def _load() -> Registry:
    manager, plugins, broken = load_plugins()
    registry = Registry({kind: {} for kind in KINDS}, broken=broken)
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
        if other := next((claim for claim in claims if claim.plugin.package == plugin.package), None):
            fault = f"{component.__name__} has the name of {other.component.__name__}, '{other.name}': give it another"
            registry.broken.append(report(plugin, f"{kind.hook}: {fault}"))
            continue
        claims.append(Registered(kind.name, component.name, component, plugin))


def _add_presets(registry: Registry, plugin: Plugin, presets: Any) -> None:
    for name, tables in presets.items():
        if not isinstance(tables, Mapping):
            registry.broken.append(report(plugin, f"{PRESETS}: '{name}' is not a table of tables"))
            continue
        rest = dict(tables)
        scale = rest.pop("scale", None)
        preset = Preset(plugin, rest, None if scale is None else Scale(**scale))
        registry.presets.setdefault(name, []).append(preset)


def _fault(kind: Kind, component: Any) -> str | None:
    """Why a contributed object cannot be a component of its kind; None if it can."""
    label = getattr(component, "__name__", repr(component))
    if not (inspect.isclass(component) and issubclass(component, kind.base)):
        return f"{label} is not a subclass of distillkit.interfaces.{kind.base.__name__}"
    if not isinstance(getattr(component, "name", None), str):
        return f"{label} has no `name`"
    if not component.name or ":" in component.name:
        return f"{label} is called '{component.name}', and a name has a letter at least, and no colon"
    if missing := sorted(component.__abstractmethods__):
        return f"{label} lacks {', '.join(missing)}"
    return (
        _options_fault(kind, component, label)
        or _attributes_fault(kind, component, label)
        or _methods_fault(kind, component, label)
    )


def _options_fault(kind: Kind, component: type[Component], label: str) -> str | None:
    """What keeps its options from being a table of a config."""
    options, base = component.Options, kind.base.Options
    if not (inspect.isclass(options) and issubclass(options, base)):
        return f"{label}.Options is not a subclass of {base.__qualname__}"
    if "type" in {*options.model_fields, *(field.alias for field in options.model_fields.values())}:
        return f"{label}.Options has the option `type`, which names the part in a config: call it something else"
    return None


ATTRIBUTES: dict[str, tuple[type, str]] = {
    "ClassVar[str]": (str, "a string"),
    "ClassVar[bool]": (bool, "True or False"),
    "ClassVar[int]": (int, "a whole number"),
    "bool": (bool, "True or False"),
    "ClassVar[frozenset[str]]": (Set, "a frozenset of strings"),
    "ClassVar[Mapping[str, str]]": (Mapping, "a mapping of strings"),
}
"""The annotations of class attributes, as the interfaces write them: what such an attribute must be."""


def _attributes_fault(kind: Kind, component: type[Component], label: str) -> str | None:
    """What keeps its class attributes from being what its interface says."""
    for base in kind.base.__mro__:
        for name, annotation in inspect.get_annotations(base).items():
            if annotation not in ATTRIBUTES:
                continue
            wanted, words = ATTRIBUTES[annotation]
            try:
                value = inspect.getattr_static(component, name)
            except AttributeError:
                return f"{label} has no `{name}`, {words}"
            if not isinstance(value, (wanted, property)):
                return f"{label}.{name} is {value!r}, and must be {words}"
    return None


def _methods_fault(kind: Kind, component: type[Component], label: str) -> str | None:
    """What keeps its methods from being called as distillkit calls them."""
    own = {name for name in STATE if getattr(component, name, None) is not getattr(kind.base, name, None)}
    if len(own) == 1:
        [has], [lacks] = own, {*STATE} - own
        return f"{label} has {has} and no {lacks}, without which a resumed run would not be the same run"
    for name in dir(kind.base):
        wanted, mine = inspect.getattr_static(kind.base, name), inspect.getattr_static(component, name)
        if name.startswith("_") or mine is wanted:
            continue
        if isinstance(wanted, property | classmethod) and inspect.isfunction(mine):
            return f"{label}.{name} needs the decorator @{type(wanted).__name__}, as its base class has it"
        if inspect.isfunction(wanted) and not callable(getattr(component, name)):
            return f"{label}.{name} is no method, as it is in its base class"
        if not (inspect.isfunction(wanted) and inspect.isfunction(mine)):
            continue
        given, taken = inspect.signature(wanted).parameters, inspect.signature(mine)
        try:
            taken.bind(*given)
        except TypeError:
            return f"{label}.{name} takes ({', '.join(taken.parameters)}), and gets ({', '.join(given)})"
    return None
