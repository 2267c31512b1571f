"""Reads a config: every mistake at once, each with its TOML key. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from distillkit import interfaces
from distillkit.component import Component
from distillkit.config.checks import check_together
from distillkit.config.explain import did_you_mean
from distillkit.config.parts import CORE, Reader
from distillkit.config.settings import Settings
from distillkit.config.source import complete, read_toml
from distillkit.config.tables import EmaTable, EvaluationTable, GridTable, OptimizerTable, RunTable, StudentTable
from distillkit.errors import ConfigError, Mistake
from distillkit.registry import TABLES, Registry, load_registry


def read_config(
    path: Path, overrides: Iterable[str] = (), registry: Callable[[], Registry] = load_registry
) -> Settings:
    """Read, complete and check a config.

    Args:
        path: a TOML file.
        overrides: `--set` assignments, `key=value`, laid over the file.
        registry: where components and presets are looked up.

    Raises:
        ConfigError: with all mistakes, in the order of the file's tables.
        DistillkitError: the file is not there or is not TOML.
    """
    return settle(read_toml(path), path.stem, overrides, registry(), str(path))


def settle(written: dict[str, Any], name: str, overrides: Iterable[str], registry: Registry, origin: str) -> Settings:
    """Complete and check a config's tables.

    Args:
        written: as they were read; `preset` is taken out.
        name: the run's name, if nothing gives another.
        overrides: `--set` assignments, `key=value`, laid over the tables.
        registry: where components and presets are looked up.
        origin: where the tables come from, for the message.

    Raises:
        ConfigError: with all mistakes, in the order of the tables.
    """
    in_file = ["--set", *written]
    reader = Reader(registry)
    tables, mistakes = complete(written, name, overrides, reader.registry)
    reader.mistakes += mistakes
    reader.lacks_preset = any(mistake.key == "preset" for mistake in mistakes)
    known = ["preset", *CORE, *TABLES]
    for key in tables:
        if key not in known:
            hint = did_you_mean(key, known)
            reader.mistakes.append(Mistake(key, f"unknown table; a config has: {', '.join(known)}{hint}"))

    settings = _settings(reader, tables, origin)
    mistakes = reader.mistakes
    if not reader.lacks_preset:
        mistakes = [*mistakes, *check_together(settings, wrong={_table(mistake) for mistake in mistakes})]
    if mistakes:
        place = {table: i for i, table in enumerate(dict.fromkeys([*in_file, *tables, *known]))}
        raise ConfigError(sorted(mistakes, key=lambda mistake: place.get(_table(mistake), -1)), origin)
    return settings


def _settings(reader: Reader, tables: dict[str, Any], origin: str) -> Settings:
    """The settings. Where a table is wrong, what it should have made is None, whatever the type says."""
    core = {name: reader.core_table(name, tables.get(name)) for name in CORE}
    parts = {name: reader.components(name, tables.get(name)) for name in TABLES}
    return Settings(
        origin=origin,
        tables=reader.resolved,
        run=cast(RunTable, core["run"]),
        grid=cast(GridTable, core["grid"]),
        optimizer=cast(OptimizerTable, core["optimizer"]),
        ema=cast(EmaTable | None, core["ema"]),
        student=cast(StudentTable | None, core["student"]),
        evaluation=cast(EvaluationTable, core["evaluation"]),
        model=cast(interfaces.Model, _one(parts["model"])),
        teacher=cast(interfaces.Teacher | None, _one(parts["teacher"])),
        target=cast(interfaces.Target | None, _one(parts["target"])),
        schedule=cast(interfaces.Schedule, _one(parts["schedule"])),
        source=cast(interfaces.Source, _one(parts["source"])),
        data=cast(interfaces.Data | None, _one(parts["data"])),
        losses=cast(list[interfaces.Loss], parts["loss"]),
        engine=cast(interfaces.Engine, _one(parts["engine"])),
        features=cast(interfaces.Features | None, _one(parts["features"])),
        metrics=cast(list[interfaces.Metric], parts["metric"]),
        tracker=cast(interfaces.Tracker, _one(parts["tracker"])),
    )


def _table(mistake: Mistake) -> str:
    """The top-level key that a mistake belongs to."""
    return re.split(r"[.\[]", mistake.key, maxsplit=1)[0]


def _one(parts: list[Component]) -> Component | None:
    return parts[0] if parts else None
