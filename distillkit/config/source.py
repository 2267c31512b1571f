"""From a file, its preset and `--set` to complete tables, not yet checked."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distillkit.config.override import assign, lay_over, parse_assignments
from distillkit.errors import DistillkitError, Mistake
from distillkit.registry import Registry, UnknownNameError

DEFAULTS: dict[str, Any] = {"engine": {"type": "torch"}, "tracker": {"type": "mlflow"}}
"""What a config gets that names no other."""


def read_toml(path: Path) -> dict[str, Any]:
    """A file's tables.

    Raises:
        DistillkitError: it is not there, is no text, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DistillkitError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DistillkitError(f"{path}: cannot be read as a text file ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise DistillkitError(f"{path}: not valid TOML: {error}") from None


def complete(
    tables: dict[str, Any], name: str, overrides: Iterable[str], registry: Registry
) -> tuple[dict[str, Any], list[Mistake]]:
    """Lay the file's tables over its preset's and the defaults, and `--set` over all.

    Args:
        tables: the file's.
        name: the run's name, if nothing gives another.
        overrides: `key=value` assignments.
        registry: where presets are looked up.

    Returns:
        the tables, without `preset`; what was wrong with `preset` and the assignments.
    """
    assignments, mistakes = parse_assignments(overrides)
    base: dict[str, Any] = {**DEFAULTS, "run": {"name": name}}
    mistakes += assign(tables, [a for a in assignments if a.key == "preset"])
    preset = tables.pop("preset", None)
    if preset is not None:
        try:
            base = lay_over(base, _preset(registry, preset))
            base = lay_over(base, {"run": {"method": preset}})
        except UnknownNameError as error:
            mistakes.append(Mistake("preset", str(error)))
    tables = lay_over(base, tables)
    mistakes += assign(tables, [a for a in assignments if a.key != "preset"])
    if tables.pop("preset", None) is not None:
        mistakes.append(Mistake("--set", "preset is a name, and has no keys"))
    return tables, mistakes


def _preset(registry: Registry, name: Any) -> dict[str, Any]:
    if not isinstance(name, str):
        raise UnknownNameError(f"must be a preset's name, a string (got {name!r})")
    return registry.preset(name)
