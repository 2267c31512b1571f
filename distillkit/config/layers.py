"""Lays a config file over its preset and the defaults, and `--set` over all. Nothing is validated here."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError, Mistake
from distillkit.reading import read_text
from distillkit.registry import Registry, UnknownNameError

DEFAULTED = ("engine", "tracker")
"""The kinds for which a config without their table gets the default component."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a file.

    Raises:
        DistillkitError: the file does not exist, is not text, or is not TOML.
    """
    text = read_text(path)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise DistillkitError(f"{path}: not valid TOML: {error}") from None


def complete(
    tables: dict[str, Any], name: str, overrides: Iterable[str], registry: Registry
) -> tuple[dict[str, Any], list[Mistake]]:
    """Lay the file's tables over its preset's and the defaults, and `--set` over all.

    Args:
        tables: the file's tables.
        name: the run's name, unless the tables give one.
        overrides: `--set` assignments, `key=value`.
        registry: where presets are looked up.

    Returns:
        The complete tables, without `preset`, and the mistakes in `preset` and the assignments.
    """
    assignments, mistakes = parse_assignments(overrides)
    base: dict[str, Any] = {kind: {"type": registry.default(kind)} for kind in DEFAULTED}
    base["run"] = {"name": name}
    # A table's new type as if the file had it: what the preset says of any type stays.
    early = [a for a in assignments if a.key == "preset" or (len(a.parts) == 2 and a.parts[1] == "type")]
    mistakes += assign(tables, early)
    preset = tables.pop("preset", None)
    if preset is not None:
        try:
            # A preset may name its method otherwise, as one that recommends another does.
            base = lay_over(lay_over(base, {"run": {"method": preset}}), _preset(registry, preset))
        except UnknownNameError as error:
            mistakes.append(Mistake("preset", str(error)))
    tables = lay_over(base, tables)
    mistakes += assign(tables, [a for a in assignments if a not in early])
    if tables.pop("preset", None) is not None:
        mistakes.append(Mistake("--set", "preset is a name and has no keys; write preset=NAME"))
    return tables, mistakes


def _preset(registry: Registry, name: Any) -> dict[str, Any]:
    if not isinstance(name, str):
        raise UnknownNameError(f"must be a preset's name, a string (got {name!r})")
    return registry.preset(name).tables


@dataclass(frozen=True)
class Assignment:
    """One `--set`: the key as written (`loss[0].weight`), its parts ("loss", 0, "weight"), the value."""

    key: str
    parts: list[str | int]
    value: Any


def lay_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` over `base`, key by key. Returns new tables.

    A table with another `type` replaces the whole table, and a list (`[[loss]]`) the whole list. A table without a
    `type`, as in a preset that sets an option of any model, is laid under.
    """
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not _other_type(below, value):
            merged[key] = lay_over(below, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _other_type(below: Mapping[str, Any], over: Mapping[str, Any]) -> bool:
    return "type" in over and over["type"] != below.get("type", over["type"])


def parse_assignments(texts: Iterable[str]) -> tuple[list[Assignment], list[Mistake]]:
    """Parse `--set a.b=VALUE` assignments, such as `loss[0].weight=2`. Returns them, and the mistakes.

    VALUE is read as TOML. If it is not TOML, it is a string, so `--set model.path=some/folder` needs no quotes.
    """
    assignments: list[Assignment] = []
    mistakes: list[Mistake] = []
    for assignment in texts:
        key, equals, text = assignment.partition("=")
        parts = _parts(key.strip())
        if equals and parts:
            assignments.append(Assignment(key.strip(), parts, _value(text.strip())))
        else:
            mistakes.append(Mistake("--set", f"expected key=value, as in run.updates=100 (got '{assignment}')"))
    return assignments, mistakes


def assign(tables: dict[str, Any], assignments: Iterable[Assignment]) -> list[Mistake]:
    """Apply assignments to the tables, in place. Returns the mistakes.

    A new `type` empties its table first. It is therefore applied before the table's other keys.
    """
    in_order = sorted(assignments, key=lambda assignment: assignment.parts[-1] != "type")
    return [Mistake("--set", f"{a.key}: {fault}") for a in in_order if (fault := _assign(tables, a.parts, a.value))]


def _assign(tables: dict[str, Any], parts: list[str | int], value: Any) -> str | None:
    """Set one value. Returns the fault, if there is one; the tables then stay as they are."""
    entry: Any = tables
    for i, part in enumerate(parts):
        name = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts[:i]).lstrip(".")
        if isinstance(part, int):
            if not isinstance(entry, list) or part >= len(entry):
                count = len(entry) if isinstance(entry, list) else 0
                return f"'{name}' has no entry [{part}]; it has {count}, counted from 0"
        elif isinstance(entry, list):
            return f"'{name}' is a list; name an entry, as in {name}[0].{part}"
        elif not isinstance(entry, dict):
            return f"'{name}' is not a table (it is {entry!r})"
        last = i == len(parts) - 1
        if last and part == "type" and entry.get("type") != value:
            entry.clear()
        if last:
            entry[part] = value
        elif isinstance(part, int):
            entry = entry[part]
        else:
            # A table that is not there is made, unless an entry of it is named: then there is none.
            entry = entry.get(part, []) if isinstance(parts[i + 1], int) else entry.setdefault(part, {})
    return None


def _parts(key: str) -> list[str | int]:
    if not re.fullmatch(r"[\w-]+(\[\d+\])*(\.[\w-]+(\[\d+\])*)*", key):
        return []
    return [int(number) if number else name for number, name in re.findall(r"\[(\d+)\]|([\w-]+)", key)]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
