"""Looks up the class that a plugin contributed, by kind and name."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from distillkit.component import Component
from distillkit.registry.entry_points import BrokenPlugin, Plugin


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


class UnknownNameError(LookupError):
    """No plugin, or more than one, has a component or preset of that name. The message can be shown to the user."""


@dataclass
class Registry:
    """What the installed plugins contribute.

    Attributes:
        components: kind -> name -> the classes of that name. Looking up a name with more than one is an error.
        presets: name -> the presets of that name, each with its plugin.
        broken: the plugins that do not work.
        scales: name of a preset -> its scale, if it has one.
    """

    components: dict[str, dict[str, list[Registered]]] = field(default_factory=dict)
    presets: dict[str, list[tuple[Plugin, dict[str, Any]]]] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)
    scales: dict[str, Scale] = field(default_factory=dict)

    def find(self, kind: str, name: str) -> type[Component]:
        """The class of a kind with a name.

        Raises:
            UnknownNameError: there is none, or more than one.
        """
        claims = self.components[kind].get(name, [])
        self._check_owners(kind, name, [claim.plugin for claim in claims], sorted(self.components[kind]))
        return claims[0].component

    def default(self, kind: str) -> str:
        """The name of the component that is used if none of its kind is named.

        Raises:
            UnknownNameError: no plugin has a default.
        """
        for component in self.classes(kind):
            if component.default:
                return component.name
        raise UnknownNameError(f"no installed plugin has a default {kind}: name one")

    def classes(self, kind: str) -> list[type[Component]]:
        """All classes of a kind, distillkit's own first."""
        return [claim.component for claims in self.components[kind].values() for claim in claims]

    def preset(self, name: str) -> dict[str, Any]:
        """The tables of a preset.

        Raises:
            UnknownNameError: there is none, or more than one.
        """
        claims = self.presets.get(name, [])
        self._check_owners("preset", name, [plugin for plugin, _ in claims], sorted(self.presets))
        return claims[0][1]

    def _check_owners(self, what: str, name: str, owners: list[Plugin], known: list[str]) -> None:
        if not owners:
            message = f"no {what} is called '{name}'; known: {', '.join(known) or 'none'}"
            if close := difflib.get_close_matches(name, known, n=1):
                message += f" — did you mean '{close[0]}'?"
            if self.broken:
                names = ", ".join(f"{b.name} ({b.package} {b.version}: {b.reason})" for b in self.broken)
                message += f" — it may belong to a plugin that does not work: {names}"
            raise UnknownNameError(message)
        if len(owners) > 1:
            both = " and ".join(f"{owner.package} {owner.version} ({owner.name})" for owner in owners)
            raise UnknownNameError(f"'{name}' is claimed by {both}; uninstall one of them")
