"""Reads some tables of a config alone, for commands that need no whole one. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from distillkit import interfaces
from distillkit.config.checks import check_scores
from distillkit.config.explain import did_you_mean
from distillkit.config.layers import DEFAULTS, assign, parse_assignments
from distillkit.config.settings import Scoring
from distillkit.config.tables import EvaluationTable, GridTable, Reader
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
    reader = Reader(load_registry())
    assignments, reader.mistakes = parse_assignments(overrides)
    for key in dict.fromkeys(str(assignment.parts[0]) for assignment in assignments):
        if key not in SCORING:
            hint = did_you_mean(key, SCORING)
            reader.mistakes.append(Mistake(key, f"no table of scoring; they are: {', '.join(SCORING)}{hint}"))
    reader.mistakes += assign(tables, assignments)
    core = {name: reader.core_table(name, tables.get(name)) for name in SCORING[:2]}
    parts = {kind: reader.components(kind, tables.get(kind, DEFAULTS.get(kind))) for kind in SCORING[2:]}
    first = {kind: made[0] if made else None for kind, made in parts.items()}
    scoring = Scoring(
        grid=cast(GridTable, core["grid"]),
        evaluation=cast(EvaluationTable, core["evaluation"]),
        engine=cast(interfaces.Engine, first["engine"]),
        data=cast(interfaces.Data | None, first["data"]),
        features=cast(interfaces.Features | None, first["features"]),
        metrics=cast(list[interfaces.Metric], parts["metric"]),
    )
    if mistakes := reader.mistakes or [*check_scores(scoring)]:
        raise ConfigError(mistakes, origin)
    return scoring


def table_of_result(tables: Mapping[str, Any], pipeline: Path) -> dict[str, Any]:
    """A table [model] for the pipeline that a run left: it is told what the run's own model was.

    Args:
        tables: the run's.
        pipeline: the folder.
    """
    result = cast(type[interfaces.Model], load_registry().find("model", "diffusers"))
    told = {key: value for key, value in tables.get("model", {}).items() if key in result.kept_options}
    return {"type": "diffusers", "path": str(pipeline)} | told


def read_component(kind: str, table: Mapping[str, Any], origin: str) -> Any:
    """One component from its table.

    Raises:
        ConfigError: with all mistakes.
    """
    reader = Reader(load_registry())
    made = reader.components(kind, table)
    if reader.mistakes:
        raise ConfigError(reader.mistakes, origin)
    return made[0]
