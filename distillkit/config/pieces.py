"""Reads some tables of a config alone, for commands that need no whole one. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from distillkit import interfaces
from distillkit.config.checks import check_scores
from distillkit.config.explain import did_you_mean
from distillkit.config.layers import assign, parse_assignments
from distillkit.config.settings import Scoring
from distillkit.config.tables import Choice, EvaluationTable, GridTable, Reader
from distillkit.errors import ConfigError, Mistake
from distillkit.registry import load_registry

SCORING = ("grid", "evaluation", "engine", "data", "features", "metric")
"""The tables that say how a model is scored."""


def read_scoring(tables: dict[str, Any], origin: str, overrides: Iterable[str] = ()) -> Scoring:
    """What scoring needs, from the tables evaluation, engine, data, features and metric.

    Args:
        tables: the tables; others are not looked at. What the overrides say is laid over them, in place.
        origin: where they come from, for the message.
        overrides: `--set` assignments, `key=value`, laid over them.

    Raises:
        ConfigError: with all mistakes.
    """
    registry = load_registry()
    reader = Reader(registry)
    assignments, reader.mistakes = parse_assignments(overrides)
    for key in dict.fromkeys(str(assignment.parts[0]) for assignment in assignments):
        if key not in SCORING:
            hint = did_you_mean(key, SCORING)
            reader.mistakes.append(Mistake(key, f"no table of scoring; they are: {', '.join(SCORING)}{hint}"))
    reader.mistakes += assign(tables, assignments)
    core = {name: reader.core_table(name, tables.get(name)) for name in SCORING[:2]}
    wanted = {"engine": {"type": registry.default("engine")}} | tables
    made = {kind: [choice.make() for choice in reader.choices(kind, wanted.get(kind))] for kind in SCORING[2:]}
    first = {kind: components[0] if components else None for kind, components in made.items()}
    scoring = Scoring(
        grid=cast(GridTable, core["grid"]),
        evaluation=cast(EvaluationTable, core["evaluation"]),
        engine=cast(interfaces.Engine, first["engine"]),
        data=cast(interfaces.Data | None, first["data"]),
        features=cast(interfaces.Features | None, first["features"]),
        metrics=cast(list[interfaces.Metric], made["metric"]),
    )
    if mistakes := reader.mistakes or [*check_scores(scoring)]:
        raise ConfigError(mistakes, origin)
    return scoring


def table_of_result(tables: Mapping[str, Any], pipeline: Path) -> dict[str, Any]:
    """The table [model] for a pipeline that a run exported: the default model opens it.

    Args:
        tables: the run's.
        pipeline: the folder.
    """
    registry = load_registry()
    name = registry.default("model")
    result = cast(type[interfaces.Model], registry.find("model", name))
    kept = {key: value for key, value in tables.get("model", {}).items() if key in result.kept_options}
    return {"type": name, "path": str(pipeline)} | kept


def read_component(kind: str, table: Mapping[str, Any], origin: str) -> Any:
    """A new component from its table.

    Raises:
        ConfigError: with all mistakes.
    """
    return read_choice(kind, table, origin).make()


def read_choice(kind: str, table: Mapping[str, Any], origin: str) -> Choice:
    """One component's class and options from its table.

    Raises:
        ConfigError: with all mistakes.
    """
    reader = Reader(load_registry())
    choices = reader.choices(kind, table)
    if reader.mistakes:
        raise ConfigError(reader.mistakes, origin)
    return choices[0]
