"""Reads a config: every mistake at once, each with its TOML key. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from distillkit.config.checks import check_together
from distillkit.config.explain import did_you_mean
from distillkit.config.layers import assign, complete, lay_over, parse_assignments, read_toml
from distillkit.config.settings import Config, Settings
from distillkit.config.tables import CORE, EvaluationTable, GridTable, Reader, RunTable
from distillkit.errors import ConfigError, Mistake
from distillkit.interfaces import EmaTable, OptimizerTable, StudentTable
from distillkit.registry import TABLES, Registry, load_registry


def read_config(path: Path, overrides: Iterable[str] = (), registry: Callable[[], Registry] = load_registry) -> Config:
    """Read, complete and check a config.

    With `[[phase]]` tables, each phase is a config of its own: its preset, overlaid by the file's other tables, and
    these by the phase's. `--set phase[0].run.updates=100` changes one phase; other assignments change all.

    Args:
        path: a TOML file.
        overrides: `--set` assignments, `key=value`, laid over the file.
        registry: where components and presets are looked up.

    Raises:
        ConfigError: with all mistakes, in the order of the file's tables.
        DistillkitError: the file is not there or is not TOML.
    """
    tables, found = read_toml(path), registry()
    if "phase" in tables:
        return _read_phases(tables, path, list(overrides), found)
    return Config.of(settle(tables, path.stem, overrides, found, str(path)))


def _read_phases(tables: dict[str, Any], path: Path, overrides: list[str], registry: Registry) -> Config:
    entries = tables.pop("phase")
    if not (isinstance(entries, list) and entries and all(isinstance(entry, dict) for entry in entries)):
        raise ConfigError([Mistake("phase", "must be a list of tables: write [[phase]]")], str(path))

    own = [text for text in overrides if text.lstrip().startswith("phase[")]
    assignments, mistakes = parse_assignments(own)
    mistakes += assign({"phase": entries}, assignments)
    if not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(
            [Mistake("--set", "phase[…] is a table: name one of its keys, as in phase[0].run.updates=100")]
        )
    for i, entry in enumerate(entries[1:], 1):
        if "model" in entry:
            mistakes.append(Mistake(f"phase[{i}].model", "must be left out: the phase begins with the one before's"))
    named = [text for text in overrides if text.partition("=")[0].strip() == "run.name"]
    assignments, faults = parse_assignments(named)
    mistakes += [*faults, *assign(tables, assignments)]
    run = tables.get("run")
    name = str(run.get("name", path.stem)) if isinstance(run, dict) else path.stem
    # The model of the first phase stands for those of the later ones until these begin.
    tables.setdefault("model", entries[0].get("model", {}))

    common = [text for text in overrides if text not in own and text not in named]
    phases: list[Settings] = []
    for i, entry in enumerate(entries):
        base = lay_over(tables, {"run": {"name": f"{name}-{i + 1}" if len(entries) > 1 else name}})
        try:
            phases.append(settle(lay_over(base, entry), name, common, registry, str(path)))
        except ConfigError as error:
            mistakes += [Mistake(f"phase[{i}].{mistake.key}", mistake.message) for mistake in error.mistakes]
    if not mistakes:
        mistakes += [
            Mistake(
                f"phase[{i}].tracker",
                "must be the first phase's: a chain is one record; write [tracker] above the phases",
            )
            for i, phase in enumerate(phases)
            if phase.tables["tracker"] != phases[0].tables["tracker"]
        ]
    if mistakes:
        raise ConfigError(mistakes, str(path))
    if len(phases) == 1:
        return Config.of(phases[0])
    first, *rest = [phase.tables for phase in phases]
    resolved = [first, *({key: value for key, value in table.items() if key != "model"} for table in rest)]
    return Config(name, phases, {"run": {"name": name}, "phase": resolved})


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
        mistakes = [
            *mistakes,
            *check_together(settings.components(), {_table(mistake) for mistake in mistakes}, registry),
        ]
    if mistakes:
        place = {table: i for i, table in enumerate(dict.fromkeys([*in_file, *tables, *known]))}
        raise ConfigError(sorted(mistakes, key=lambda mistake: place.get(_table(mistake), -1)), origin)
    return settings


def _settings(reader: Reader, tables: dict[str, Any], origin: str) -> Settings:
    """The settings. Where a table is wrong, what it should have made is missing, whatever the type says."""
    core = {name: reader.core_table(name, tables.get(name)) for name in CORE}
    choices = {kind: reader.choices(kind, tables.get(kind)) for kind in TABLES}
    return Settings(
        origin=origin,
        tables=reader.resolved,
        run=cast(RunTable, core["run"]),
        grid=cast(GridTable, core["grid"]),
        optimizer=cast(OptimizerTable, core["optimizer"]),
        ema=cast(EmaTable | None, core["ema"]),
        student=cast(StudentTable | None, core["student"]),
        evaluation=cast(EvaluationTable, core["evaluation"]),
        choices=choices,
    )


def _table(mistake: Mistake) -> str:
    """The top-level key that a mistake belongs to."""
    return re.split(r"[.\[]", mistake.key, maxsplit=1)[0]


def tables_in(config: Path) -> dict[str, Any]:
    """The tables of a run's config.toml: those of its last phase, and the model of its first."""
    tables = read_toml(config)
    return {"model": tables["phase"][0]["model"]} | tables["phase"][-1] if "phase" in tables else tables
