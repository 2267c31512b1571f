"""Reads and checks a config, or some of its tables. All mistakes are reported at once, each with its TOML key.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from distillkit import interfaces
from distillkit.config.checks import check_together
from distillkit.config.critic_checks import check_previous, no_previous
from distillkit.config.explain import did_you_mean
from distillkit.config.layers import assign, complete, lay_over, parse_assignments, read_toml
from distillkit.config.score_checks import check_scores
from distillkit.config.settings import Config, Scoring, Settings
from distillkit.config.tables import CORE, Choice, EvaluationTable, Reader, RunTable
from distillkit.errors import ConfigError, DistillkitError, Mistake
from distillkit.interfaces import PREVIOUS, EmaTable, OptimizerTable, StudentTable
from distillkit.noise.grids import GridTable
from distillkit.registry import TABLES, Registry, UnknownNameError, checked, load_registry

SCORING = ("grid", "evaluation", "engine", "data", "features", "metric")
"""The tables that say how a model is scored."""


def read_config(path: Path, overrides: Iterable[str] = (), registry: Callable[[], Registry] = load_registry) -> Config:
    """Read, complete and check a config.

    With `[[phase]]` tables, each phase is a config of its own: its tables are laid over the file's other tables, and
    these over its preset. `--set phase[0].run.updates=100` changes one phase; other assignments change all.

    Args:
        path: a TOML file.
        overrides: `--set` assignments, `key=value`, laid over the file.
        registry: returns the registry that components and presets are looked up in.

    Raises:
        ConfigError: the config has mistakes; they are in the order of the file's tables.
        DistillkitError: the file does not exist or is not TOML.
    """
    tables, installed = read_toml(path), registry()
    if "phase" in tables:
        return _read_phases(tables, path, list(overrides), installed)
    settings = settle(tables, path.stem, overrides, installed, str(path))
    if settings.start == PREVIOUS:
        raise ConfigError([no_previous("student.start")], str(path))
    return Config.of(settings)


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
            mistakes.append(Mistake(f"phase[{i}].model", "must be left out: it is the result of the phase before"))
    named = [text for text in overrides if text.partition("=")[0].strip() == "run.name"]
    assignments, faults = parse_assignments(named)
    mistakes += [*faults, *assign(tables, assignments)]
    run = tables.get("run")
    name = str(run.get("name", path.stem)) if isinstance(run, dict) else path.stem
    # Later phases load the result of the phase before; until then they have the first phase's model.
    tables.setdefault("model", entries[0].get("model", {}))

    common = [text for text in overrides if text not in own and text not in named]
    phases: list[Settings] = []
    for i, entry in enumerate(entries):
        base = lay_over(tables, {"run": {"name": f"{name}-{i + 1}" if len(entries) > 1 else name}})
        try:
            phases.append(settle(lay_over(base, entry), name, common, registry, str(path)))
        except ConfigError as error:
            mistakes += [Mistake(f"phase[{i}].{mistake.key}", mistake.message) for mistake in error.mistakes]
    if not mistakes and len(phases) > 1:
        [model] = phases[0].choices["model"]
        try:
            _opened(cast(type[interfaces.Model], model.component), Path("pipeline"), phases[0].tables["model"])
        except DistillkitError as error:
            mistakes.append(Mistake("phase[1]", f"cannot begin with the result of the phase before: {error}"))
    if not mistakes:
        mistakes += [
            Mistake(
                f"phase[{i}].tracker",
                "must be the first phase's: all phases are one record; write [tracker] above the phases",
            )
            for i, phase in enumerate(phases)
            if phase.tables["tracker"] != phases[0].tables["tracker"]
        ]
        mistakes += check_previous(phases)
    if mistakes:
        raise ConfigError(mistakes, str(path))
    if len(phases) == 1:
        return Config.of(phases[0])
    return chain(name, phases)


def chain(name: str, phases: Sequence[Settings]) -> Config:
    """A config of several phases, which have the model of the first."""
    first, *rest = [phase.tables for phase in phases]
    resolved = [first, *({key: value for key, value in table.items() if key != "model"} for table in rest)]
    return Config(name, phases, {"run": {"name": name}, "phase": resolved})


def settle(written: dict[str, Any], name: str, overrides: Iterable[str], registry: Registry, origin: str) -> Settings:
    """Complete and check a config's tables.

    Args:
        written: the tables as they were read. Changed in place: `preset` is removed.
        name: the run's name, unless the tables give one.
        overrides: `--set` assignments, `key=value`, laid over the tables.
        registry: where components and presets are looked up.
        origin: where the tables come from, for error messages.

    Raises:
        ConfigError: the tables have mistakes; they are in the order of the tables.
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
        order = {table: i for i, table in enumerate(dict.fromkeys([*in_file, *tables, *known]))}
        raise ConfigError(sorted(mistakes, key=lambda mistake: order.get(_table(mistake), -1)), origin)
    return settings


def _settings(reader: Reader, tables: dict[str, Any], origin: str) -> Settings:
    """Make the settings. A field whose table has a mistake is None, despite its type."""
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
    """The table that a mistake belongs to."""
    return re.split(r"[.\[]", mistake.key, maxsplit=1)[0]


def tables_in(config: Path) -> dict[str, Any]:
    """The tables of a run's config.toml: those of the last phase, with the model of the first."""
    tables = read_toml(config)
    return {"model": tables["phase"][0]["model"]} | tables["phase"][-1] if "phase" in tables else tables


def read_scoring(tables: dict[str, Any], origin: str, overrides: Iterable[str] = ()) -> Scoring:
    """Read the tables that scoring needs: those of `SCORING`.

    Args:
        tables: the tables. Others are ignored. Changed in place by the overrides.
        origin: where they come from, for error messages.
        overrides: `--set` assignments, `key=value`, laid over the tables.

    Raises:
        ConfigError: the tables have mistakes.
    """
    registry = load_registry()
    reader = Reader(registry)
    assignments, reader.mistakes = parse_assignments(overrides)
    for key in dict.fromkeys(str(assignment.parts[0]) for assignment in assignments):
        if key not in SCORING:
            hint = did_you_mean(key, SCORING)
            reader.mistakes.append(Mistake(key, f"is not a table of scoring; those are: {', '.join(SCORING)}{hint}"))
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
    """The `[model]` table that loads a pipeline, as the model of the run that exported it says.

    Args:
        tables: the run's tables; without a model, the default model exported it.
        pipeline: the pipeline's folder.

    Raises:
        DistillkitError: the model is not installed, or does not say how its pipelines are loaded.
    """
    registry, table = load_registry(), tables.get("model", {})
    try:
        model = registry.find("model", table.get("type", registry.default("model")))
    except UnknownNameError as error:
        raise DistillkitError(f"{pipeline}: {error}") from None
    return _opened(cast(type[interfaces.Model], model), pipeline, table)


def _opened(model: type[interfaces.Model], pipeline: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    opened: Any = model.opened(pipeline, table)
    expected = f"the [model] table that loads what it exports to {pipeline}"
    return dict(checked(model, "opened()", opened, isinstance(opened, Mapping), expected))


def read_component(kind: str, table: Mapping[str, Any], origin: str) -> Any:
    """Make a component from its table.

    Raises:
        ConfigError: the table has mistakes.
    """
    return read_choice(kind, table, origin).make()


def read_choice(kind: str, table: Mapping[str, Any], origin: str) -> Choice:
    """Read the class and the options of one component from its table.

    Raises:
        ConfigError: the table has mistakes.
    """
    reader = Reader(load_registry())
    choices = reader.choices(kind, table)
    if reader.mistakes:
        raise ConfigError(reader.mistakes, origin)
    return choices[0]
