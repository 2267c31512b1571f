"""Reads a config: every mistake at once, each with its TOML key. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from distillkit import interfaces
from distillkit.component import Component
from distillkit.config.checks import check_together
from distillkit.config.explain import did_you_mean
from distillkit.config.layers import assign, complete, lay_over, parse_assignments, read_toml
from distillkit.config.settings import Settings
from distillkit.config.tables import CORE, EvaluationTable, GridTable, Reader, RunTable
from distillkit.errors import ConfigError, Mistake
from distillkit.interfaces import EmaTable, OptimizerTable, StudentTable
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
        mistakes = [*mistakes, *check_together(settings, {_table(mistake) for mistake in mistakes}, registry)]
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


@dataclass(frozen=True)
class Chain:
    """
    Attributes:
        name: the run's name.
        phases: each phase's settings, as a run's of its own. The model of all but the first only stands for the result
            of the phase before.
        tables: the resolved config; reading it again gives the same phases.
    """

    name: str
    phases: list[Settings]
    tables: dict[str, Any]

    @property
    def tracker(self) -> interfaces.Tracker:
        """A tracker for the run as a whole, set up as the first phase's."""
        first = self.phases[0].tracker
        return type(first)(first.options)


def read_chain(
    path: Path, overrides: Iterable[str] = (), registry: Callable[[], Registry] = load_registry
) -> Settings | Chain:
    """Read a config: settings, or, if it has `[[phase]]` tables, a chain.

    A phase is a config of its own: its preset, overlaid by the file's other tables, overlaid by the phase's.
    `--set phase[0].run.updates=100` changes one phase; other assignments change all.

    Raises:
        ConfigError: with all mistakes.
        DistillkitError: the file is not there or is not TOML.
    """
    written, found = read_toml(path), registry()
    if "phase" not in written:
        return settle(written, path.stem, overrides, found, str(path))
    overrides = list(overrides)
    entries = written.pop("phase")
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
    common = [text for text in overrides if text not in own]
    name = path.stem
    named: list[str] = []
    others: list[str] = []
    for text in common:
        (named if text.partition("=")[0].strip() == "run.name" else others).append(text)
    assignments, faults = parse_assignments(named)
    mistakes += [*faults, *assign(written, assignments)]
    if isinstance(run := written.get("run"), dict):
        name = str(run.get("name", name))
    # What the first phase starts from also stands for what the later ones do, until they begin.
    written.setdefault("model", entries[0].get("model", {}))

    phases: list[Settings] = []
    wrong: list[list[Mistake]] = []
    for i, entry in enumerate(entries):
        base = lay_over(written, {"run": {"name": f"{name}-{i + 1}"}})
        try:
            phases.append(settle(lay_over(base, entry), name, others, found, str(path)))
        except ConfigError as error:
            wrong.append([Mistake(f"phase[{i}].{mistake.key}", mistake.message) for mistake in error.mistakes])
    mistakes += [
        Mistake(
            f"phase[{i}].tracker", "must be the first phase's: a chain is one record; write [tracker] above the phases"
        )
        for i, phase in enumerate(phases)
        if not wrong and phase.tables["tracker"] != phases[0].tables["tracker"]
    ]
    if mistakes or wrong:
        raise ConfigError([*mistakes, *(mistake for found in wrong for mistake in found)], str(path))
    first, *rest = [phase.tables for phase in phases]
    tables = [first, *({key: value for key, value in table.items() if key != "model"} for table in rest)]
    return Chain(name, phases, {"run": {"name": name}, "phase": tables})


def tables_in(config: Path) -> dict[str, Any]:
    """The tables of a run's config.toml; of a chain, those of its last phase, and the model of its first."""
    tables = read_toml(config)
    return {"model": tables["phase"][0]["model"]} | tables["phase"][-1] if "phase" in tables else tables
