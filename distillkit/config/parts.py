"""From a config's tables to the core's tables and the components that the others name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from distillkit.component import Component
from distillkit.config.explain import explain
from distillkit.config.locate import toml_key
from distillkit.config.tables import EmaTable, EvaluationTable, GridTable, OptimizerTable, RunTable, StudentTable
from distillkit.errors import Mistake
from distillkit.registry import KINDS, Registry, UnknownNameError

CORE: dict[str, type[BaseModel]] = {
    "run": RunTable,
    "grid": GridTable,
    "optimizer": OptimizerTable,
    "ema": EmaTable,
    "student": StudentTable,
    "evaluation": EvaluationTable,
}

OPTIONAL = ("ema", "student")
"""The core's tables without which a run does without what they describe; the others have defaults for everything."""

REQUIRED = ("model", "schedule", "source", "loss")


@dataclass
class Reader:
    """Makes what tables describe, and notes what is wrong and what the tables say in full.

    Attributes:
        registry: where components are looked up.
        lacks_preset: whether the config's preset is not there, so that tables may be missing for no other reason.
        mistakes: what is wrong so far.
        resolved: the tables with every default written out.
    """

    registry: Registry
    lacks_preset: bool = False
    mistakes: list[Mistake] = field(default_factory=list)
    resolved: dict[str, Any] = field(default_factory=dict)

    def core_table(self, name: str, table: Any) -> BaseModel | None:
        """One of the core's tables; None if it is wrong, or optional and not there."""
        if name in OPTIONAL and table is None:
            return None
        made = self._validate(CORE[name], {} if table is None else table, name, f"[{name}]")
        if made is not None:
            self.resolved[name] = _dump(made)
        return made

    def components(self, kind: str, table: Any) -> list[Component]:
        """The components of a kind that a table, or a list of tables, names. Those that are wrong are left out."""
        many = KINDS[kind].many
        form = f"[[{kind}]]" if many else f"[{kind}]"
        if table is None or table == []:
            if kind in REQUIRED and not self.lacks_preset:
                self._note(kind, f"is required: add a {form} table, or a preset that has one")
            return []
        if many != isinstance(table, list):
            self._note(kind, f"must be a list of tables: write {form}" if many else f"must be one table: write {form}")
            return []
        entries = [(toml_key(kind, (i,)), entry) for i, entry in enumerate(table)] if many else [(kind, table)]
        made = [part for key, entry in entries if (part := self._component(kind, key, entry)) is not None]
        resolved = [{"type": part.name, **_dump(part.options)} for part in made]
        if resolved:
            self.resolved[kind] = resolved if many else resolved[0]
        return made

    def _component(self, kind: str, key: str, table: Any) -> Component | None:
        if not isinstance(table, Mapping):
            self._note(key, f"must be a table with a `type` (got {table!r})")
            return None
        rest = dict(table)
        name = rest.pop("type", None)
        if not isinstance(name, str):
            known = ", ".join(sorted(self.registry.components[kind]))
            self._note(f"{key}.type", f"is required, a string; known: {known}")
            return None
        try:
            component = self.registry.find(kind, name)
        except UnknownNameError as error:
            self._note(f"{key}.type", str(error))
            return None
        options = self._validate(component.Options, rest, key, f"'{name}'")
        if options is None:
            return None
        part = component(cast(Component.Options, options))
        self.mistakes += [Mistake(f"{key}.{m.key}" if m.key else key, m.message) for m in part.check()]
        return part

    def _validate(self, model: type[BaseModel], table: Any, key: str, owner: str) -> BaseModel | None:
        """Check a table strictly: TOML has types, so a string is no number and a number no switch.

        By way of JSON, in whose strict mode a list may be a tuple, and a string a path.
        """
        try:
            return model.model_validate_json(json.dumps(table, default=str), strict=True)
        except ValidationError as error:
            self.mistakes += explain(error, key, table, model, owner)
            return None

    def _note(self, key: str, message: str) -> None:
        self.mistakes.append(Mistake(key, message))


def _dump(model: BaseModel) -> dict[str, Any]:
    """As a TOML table: what is None is left out."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
