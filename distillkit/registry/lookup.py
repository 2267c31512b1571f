"""Looks up the class that a plugin contributed, by kind and name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from distillkit.component import Component
from distillkit.errors import DistillkitError
from distillkit.registry.entry_points import OURS, BrokenPlugin, Plugin


@dataclass(frozen=True)
class Registered:
    """A component class, and the plugin that contributed it."""

    kind: str
    name: str
    component: type[Component]
    plugin: Plugin


@dataclass(frozen=True)
class Scale:
    """The network and the run length that a preset's learning rate was chosen for; `distillkit distill` scales from it.

    Attributes:
        parameters: number of parameters of the network.
        updates: parameter updates of the run, with the preset's schedule.
    """

    parameters: int
    updates: int


@dataclass(frozen=True)
class Preset:
    """A preset: its plugin, its tables, and its scale, if it has one."""

    plugin: Plugin
    tables: dict[str, Any]
    scale: Scale | None = None


T = TypeVar("T", Registered, Preset)


class UnknownNameError(LookupError):
    """No plugin, or more than one, has a component or preset of that name. The message can be shown to the user."""


@dataclass
class Registry:
    """What the installed plugins contribute.

    A config names a part by its name or by `package:name`. If several packages use a name, the name alone means
    distillkit's own part; without one, it means none of them.

    Attributes:
        components: kind -> name -> the classes of that name: distillkit's own first, and at most one of each package.
        presets: name -> the presets of that name, in the same way.
        broken: the plugins that do not work.
    """

    components: dict[str, dict[str, list[Registered]]] = field(default_factory=dict)
    presets: dict[str, list[Preset]] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)

    def find(self, kind: str, name: str) -> type[Component]:
        """The class of a kind, from its `name` or `package:name`.

        Raises:
            UnknownNameError: there is none, or more than one.
        """
        return self._pick(kind, name, self.components[kind]).component

    def preset(self, name: str) -> Preset:
        """The preset with a `name` or `package:name`.

        Raises:
            UnknownNameError: there is none, or more than one.
        """
        return self._pick("preset", name, self.presets)

    def names(self, kind: str) -> list[str]:
        """The names by which a config can use the components of a kind."""
        return [name for name, _ in _listed(self.components[kind])]

    def listed(self) -> list[tuple[str, str, Plugin]]:
        """All components and presets: kind, name in a config, and plugin."""
        found = [(kind, name, plugin) for kind in self.components for name, plugin in _listed(self.components[kind])]
        return found + [("preset", name, plugin) for name, plugin in _listed(self.presets)]

    def name_of(self, kind: str, component: type[Component]) -> str:
        """The name of a class in a config: `package:name` if its name alone does not mean it."""
        claims = self.components[kind][component.name]
        [plugin] = [claim.plugin for claim in claims if claim.component is component]
        return _written(component.name, plugin, [claim.plugin for claim in claims])

    def default(self, kind: str) -> str:
        """The name of the component that is used if none of its kind is named.

        Raises:
            UnknownNameError: no plugin has a default.
        """
        for component in self.classes(kind):
            if component.default:
                return self.name_of(kind, component)
        raise UnknownNameError(f"no installed plugin has a default {kind}: name one")

    def table(self, kind: str, table: Mapping[str, Any] | None = None, **values: Any) -> dict[str, Any]:
        """A component's table of a config, with what a command sets.

        Args:
            kind: the component's.
            table: the table to change; None: that of the default component.
            values: by the keys of `Component.command_options`. None leaves the option out.

        Raises:
            DistillkitError: the component has no option for a value.
            UnknownNameError: there is no such component, or no default.
        """
        changed = {"type": self.default(kind)} if table is None else {**table}
        options = self.find(kind, changed["type"]).command_options
        for what, value in values.items():
            if value is None:
                changed.pop(options.get(what, ""), None)
            elif what in options:
                changed[options[what]] = value
            else:
                raise DistillkitError(f"the {kind} '{changed['type']}' has no option for the {what} that is given")
        return changed

    def classes(self, kind: str) -> list[type[Component]]:
        """All classes of a kind, distillkit's own first."""
        claims = [claim for claims in self.components[kind].values() for claim in claims]
        return [claim.component for claim in sorted(claims, key=lambda claim: claim.plugin.package != OURS)]

    def _pick(self, what: str, name: str, claims: Mapping[str, list[T]]) -> T:
        package, _, bare = name.rpartition(":")
        found = [claim for claim in claims.get(bare, []) if package in ("", claim.plugin.package)]
        if not found:
            known = [name for name, _ in _listed(claims)]
            message = f"no {what} is called '{name}'; known: {', '.join(known) or 'none'}"
            if close := difflib.get_close_matches(name, known, n=1):
                message += f" — did you mean '{close[0]}'?"
            if self.broken:
                names = ", ".join(f"{b.name} ({b.package} {b.version}: {b.reason})" for b in self.broken)
                message += f" — it may belong to a plugin that does not work: {names}"
            raise UnknownNameError(message)
        if len(found) > 1 and found[0].plugin.package != OURS:
            both = " and of ".join(f"{claim.plugin.package} {claim.plugin.version}" for claim in found)
            names = " or ".join(f"'{claim.plugin.package}:{bare}'" for claim in found)
            raise UnknownNameError(f"'{bare}' is a {what} of {both}; write {names}")
        return found[0]


def _written(name: str, plugin: Plugin, owners: Sequence[Plugin]) -> str:
    """The name in a config of a plugin's part, if all of `owners` have a part of that name."""
    return name if len(owners) == 1 or plugin.package == OURS else f"{plugin.package}:{name}"


def _listed(claims: Mapping[str, Sequence[Registered | Preset]]) -> list[tuple[str, Plugin]]:
    """Names in a config, and plugins."""
    return [
        (_written(name, claim.plugin, [other.plugin for other in owners]), claim.plugin)
        for name, owners in sorted(claims.items())
        for claim in owners
    ]
