"""From a kind and a name to the class that a plugin contributed."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from distillkit.component import Component
from distillkit.registry.entry_points import BrokenPlugin, Plugin


@dataclass(frozen=True)
class Registered:
    """A component class and who contributed it."""

    kind: str
    name: str
    component: type[Component]
    plugin: Plugin


@dataclass(frozen=True)
class Scale:
    """What a preset's learning rate and run length were found with, for whoever has to choose others.

    Attributes:
        parameters: of the network.
        updates: parameter updates of a run with the preset's schedule.
    """

    parameters: int
    updates: int


class UnknownNameError(LookupError):
    """No plugin, or more than one, has a component or preset of that name. The message is ready to be shown."""


@dataclass
class Registry:
    """All that the installed plugins contribute.

    Attributes:
        components: kind -> name -> everyone who claims it (more than one is a conflict, told when it is asked for).
        presets: name -> everyone who claims it, with the tables.
        broken: what does not work.
        scales: preset's name -> what its numbers are for, where it says so.
    """

    components: dict[str, dict[str, list[Registered]]] = field(default_factory=dict)
    presets: dict[str, list[tuple[Plugin, dict[str, Any]]]] = field(default_factory=dict)
    broken: list[BrokenPlugin] = field(default_factory=list)
    scales: dict[str, Scale] = field(default_factory=dict)

    def find(self, kind: str, name: str) -> type[Component]:
        """The class of a kind called `name`.

        Raises:
            UnknownNameError: there is none, or there are two.
        """
        claims = self.components[kind].get(name, [])
        self._check_owners(kind, name, [claim.plugin for claim in claims], sorted(self.components[kind]))
        return claims[0].component

    def default(self, kind: str) -> str:
        """The name of the component that is taken where nothing names one of its kind.

        Raises:
            UnknownNameError: there is none.
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
            UnknownNameError: there is none, or there are two.
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
                message += f" — it may be in a plugin that does not work: {names}"
            raise UnknownNameError(message)
        if len(owners) > 1:
            both = " and ".join(f"{owner.package} {owner.version} ({owner.name})" for owner in owners)
            raise UnknownNameError(f"'{name}' is claimed by {both}; uninstall one of them")
