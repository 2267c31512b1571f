"""What docs/reference.md says about a table's options: from pydantic's fields and the docstrings' `Attributes`."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

WORDS = {bool: "true or false", int: "whole number", float: "number", str: "string", Path: "path"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}


def options(model: type[BaseModel]) -> str:
    """A Markdown table of a model's options; a sentence if it has none."""
    if not model.model_fields:
        return "It has no options.\n"
    texts = descriptions(model)
    rows = [
        f"| `{name}` | {_type(field)} | {_default(field, texts.get(name, ''))} | {_cell(texts.get(name, ''))} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join(["| key | type | default | |", "|---|---|---|---|", *rows]) + "\n"


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Option -> its line under `Attributes` in the docstring of the class, or of the one it inherits it from."""
    found: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        _, _, attributes = inspect.cleandoc(owner.__dict__.get("__doc__") or "").partition("Attributes:\n")
        # A line indented by four begins an option; deeper ones go on with it.
        for names, text in re.findall(r"^    (\w+(?:, \w+)*): (.*(?:\n {5,}.*)*)", attributes, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def summary(owner: Any) -> str:
    """A docstring without its lists of attributes, arguments and errors."""
    text = inspect.getdoc(owner) or ""
    return re.split(r"\n*^(?:Attributes|Args|Raises|Returns):$", text, maxsplit=1, flags=re.MULTILINE)[0].strip()


def _type(field: FieldInfo) -> str:
    return _cell(_word(field.annotation) + _bounds(field.metadata))


def _word(annotation: Any) -> str:
    """A type as a TOML user knows it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [bound for extra in arguments[1:] for bound in getattr(extra, "metadata", [])]
        return _word(arguments[0]) + _bounds(bounds)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_word(part) for part in arguments if part is not type(None))
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of: {_word(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_word, arguments))}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{{{', '.join(field.alias or name for name, field in annotation.model_fields.items())}}}"
    return "table" if origin is dict else WORDS[annotation]


def _bounds(metadata: list[Any]) -> str:
    said = [
        f"{word} {getattr(bound, name):g}"
        for bound in metadata
        for name, word in BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    return f" {' and '.join(said)}" if said else ""


def _default(field: FieldInfo, text: str) -> str:
    if field.is_required():
        # What a config gets without asking is no default of the table's own.
        return "none" if "Default: " in text else "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    # Of a table within a table, what the text says.
    return "`{}`" if isinstance(value, BaseModel) else f"`{json.dumps(value, default=str)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
