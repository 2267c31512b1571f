"""A config of several phases, each of which begins with the result of the one before. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit import interfaces
from distillkit.config.override import assign, lay_over, parse_assignments
from distillkit.config.read import settle
from distillkit.config.settings import Settings
from distillkit.config.source import read_toml
from distillkit.errors import ConfigError, Mistake
from distillkit.registry import Registry, load_registry


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
    if mistakes or wrong:
        raise ConfigError([*mistakes, *(mistake for found in wrong for mistake in found)], str(path))
    first, *rest = [phase.tables for phase in phases]
    tables = [first, *({key: value for key, value in table.items() if key != "model"} for table in rest)]
    return Chain(name, phases, {"run": {"name": name}, "phase": tables})


def tables_in(config: Path) -> dict[str, Any]:
    """The tables of a run's config.toml; of a chain, those of its last phase, and the model of its first."""
    tables = read_toml(config)
    return {"model": tables["phase"][0]["model"]} | tables["phase"][-1] if "phase" in tables else tables
