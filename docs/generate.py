"""Writes docs/cli.md and docs/reference.md anew, from the commands' help and the parts' own docstrings.

python docs/generate.py [FOLDER]
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from describe import options, summary

from distillkit import hookspecs
from distillkit.cli.group import COMMANDS, cli
from distillkit.config.layers import DEFAULTED
from distillkit.config.tables import CORE, REQUIRED
from distillkit.registry import KINDS, Kind, Registry, load_registry

FOLDER = Path(__file__).parent

CLI = """# The command line

Exit codes: 0 done; 2 a mistake in the config, the command or a file, told in one message; 130 stopped with Ctrl-C.
Anything else is a fault of distillkit's own, and shows its traceback.

`--help`, `plan`, `check` and `plugins` import neither torch nor MLflow. Tab completion: `distillkit completion --help`.
"""

REFERENCE = """# Reference

Every table of a config, every part that distillkit comes with, and every preset. [Concepts](concepts.md) explains how
they fit together; `distillkit plugins` also lists the parts that other packages bring.

A config is a TOML file with the tables below, over those of its `preset`, if it names one. A list of tables
(`[[loss]]`) is replaced whole; so is a table that names another `type` than the preset's. A default of "none" means
that the key may be left out. An unknown key is a mistake.
"""


def cli_page() -> str:
    """What docs/cli.md should be."""
    parts = [CLI]
    for words in ([], *([name] for name in COMMANDS)):
        title = " ".join(["distillkit", *words])
        text = CliRunner().invoke(cli, [*words, "--help"], prog_name="distillkit", terminal_width=100).output
        parts.append(f"## {title}\n\n```text\n{text}```\n")
    return "\n".join(parts)


def reference_page() -> str:
    """What docs/reference.md should be. Parts of other packages are left out."""
    registry = load_registry()
    parts = [REFERENCE, "## The core's tables\n"]
    for name, table in CORE.items():
        text = summary(table).partition(": ")[2]
        parts += [f"### `[{name}]`\n", f"{text[0].upper()}{text[1:]}\n", options(table)]
    for kind in KINDS.values():
        parts += [f"## {kind.name.capitalize()}\n", _kind(kind, registry)]
        for name, claims in sorted(registry.components[kind.name].items()):
            for claim in claims:
                if claim.plugin.package == "distillkit":
                    parts += [f"### {kind.name} `{name}`\n", f"{summary(claim.component)}\n"]
                    parts.append(options(claim.component.Options))
    parts += ["## Presets\n", f"{summary(hookspecs.distillkit_presets)}\n\nHook `distillkit_presets`.\n"]
    for name, owners in sorted(registry.presets.items()):
        for preset in owners:
            if preset.plugin.package == "distillkit":
                parts += [f"### preset `{name}`\n", f"```toml\n{_toml(preset.tables)}```\n"]
    return "\n".join(parts)


def _kind(kind: Kind, registry: Registry) -> str:
    """What a kind is for, where it stands in a config, and what a plugin does about it."""
    table = f"`[[{kind.name}]]`, as many as you like" if kind.many else f"`[{kind.name}]`"
    if kind.name in DEFAULTED:
        need = f"`{registry.default(kind.name)}` where a config names none"
    else:
        need = "required" if kind.name in REQUIRED else "only where something needs it"
    where = f"Table {table}: {need}" if kind.in_config else "No table of a config: a command names it"
    hook = inspect.getdoc(getattr(hookspecs, kind.hook))
    return f"{hook}\n\n{where}. Hook `{kind.hook}`, class `distillkit.interfaces.{kind.base.__name__}`.\n"


def _toml(tables: Mapping[str, Any]) -> str:
    """A preset's tables as a user would write them, in the order of this page."""
    lines = []
    for name in sorted(tables, key=[*KINDS, *CORE].index):
        many = isinstance(tables[name], list)
        for table in tables[name] if many else [tables[name]]:
            lines += [f"[[{name}]]" if many else f"[{name}]"]
            lines += [f"{key} = {_value(value)}" for key, value in table.items()] + [""]
    return "\n".join(lines)


def _value(value: Any) -> str:
    """Numbers, strings, switches and lists of them are written alike in JSON and in TOML; tables are not."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_value(part)}' for key, part in value.items())} }}"
    return json.dumps(value, ensure_ascii=False)


PAGES: dict[str, Callable[[], str]] = {"cli.md": cli_page, "reference.md": reference_page}

if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
