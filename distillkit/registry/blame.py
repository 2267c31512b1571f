"""Whose part it was: sentences about what a part gave, and notes on what it raised."""

from __future__ import annotations

import traceback
from types import FrameType

from distillkit.component import Component
from distillkit.errors import DistillkitError
from distillkit.registry.entry_points import Plugin, installed
from distillkit.registry.kinds import KINDS


def wrong(part: Component | type[Component], what: str, came: object, expected: str) -> DistillkitError:
    """The error that a part gave something else than its interface says.

    Args:
        part: the part, or its class.
        what: one of its methods, "per_sample()", or of its attributes, "spec.prediction".
        came: what it was, in a few words.
        expected: what the interface says.
    """
    verb = "gave" if what.endswith(")") else "is"
    return DistillkitError(f"{heading(part)}: {what} {verb} {came}; expected {expected}")


def heading(part: Component | type[Component]) -> str:
    """Package, kind and name of a part: "my-parts 0.1.0, loss 'pseudo-huber'"."""
    component = part if isinstance(part, type) else type(part)
    kind = next(kind.name for kind in KINDS.values() if issubclass(component, kind.base))
    return f"{_package(component.__module__)}, {kind} '{component.name}'"


def note_part(error: BaseException) -> None:
    """Note on an exception out of which part, and which of its methods, it came: a traceback names no package."""
    package = None
    for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)]):
        part, module = _part(frame), frame.f_globals.get("__name__", "")
        # Functions without a part belong to the part of their package that called them.
        if part is not None and package in (None, _package(type(part).__module__)):
            error.add_note(f"{heading(part)}: {frame.f_code.co_name}() raised this")
            return
        if package is None and _plugin(module) is not None:
            package = _package(module)
    if package is not None:
        error.add_note(f"{package}: one of its plugins raised this")


def _part(frame: FrameType) -> Component | None:
    """The part whose method a frame is."""
    owner = frame.f_locals.get("self")
    return owner if isinstance(owner, Component) else None


def _package(module: str) -> str:
    """The distribution of a plugin's module and its version; the module itself where no plugin has it."""
    plugin = _plugin(module)
    return module if plugin is None else f"{plugin.package} {plugin.version}"


def _plugin(module: str) -> Plugin | None:
    """The plugin whose entry point names a module of the same import package."""
    top = module.partition(".")[0]
    return next((plugin for entry, plugin in installed() if entry.module.partition(".")[0] == top), None)
