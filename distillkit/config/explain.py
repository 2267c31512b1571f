"""Turns pydantic's errors into mistakes with a TOML key and a sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distillkit.config.locate import keys_at, path_in, toml_key
from distillkit.errors import Mistake

EXPECTED = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "too_short": "needs {min_length} or more entries",
    "too_long": "must have at most {max_length} entries",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "path_type": "must be a path",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_pattern_mismatch": "must match {pattern}",
    "folder_name": "must be a folder's name: letters, digits, '.', '_' and '-', the first a letter or digit",
}


def explain(error: ValidationError, prefix: str, table: Any, model: type[BaseModel], owner: str) -> list[Mistake]:
    """One mistake per key.

    Args:
        error: what pydantic found.
        prefix: the table's TOML key.
        table: what was checked.
        model: what it was checked against.
        owner: whose options they are, for an unknown one ("'linear'", "[run]").
    """
    expected: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for detail in error.errors():
        path = path_in(table, detail["loc"], missing=detail["type"] == "missing")
        key = toml_key(prefix, path)
        if detail["type"] == "extra_forbidden":
            whose = owner if len(path) == 1 else toml_key(prefix, path[:-1])
            sentence = unknown(str(path[-1]), whose, keys_at(model, detail["loc"][:-1]))
        else:
            sentence = _sentence(detail)
        expected.setdefault(key, []).append(sentence)
        if detail["type"] in EXPECTED:
            got[key] = f" (got {_show(detail['input'])})"
    # A union tells of each member what is wrong: where one got as far as a part of the value, that part is at fault.
    inner = [key for key in expected if not any(other.startswith((f"{key}.", f"{key}[")) for other in expected)]
    return [Mistake(key, _either(expected[key]) + got.get(key, "")) for key in inner]


def unknown(name: str, owner: str, known: Iterable[str]) -> str:
    """The sentence for a key that `owner` does not have."""
    known = [*known]
    return f"unknown option of {owner}; it has: {', '.join(known) or 'none'}{did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name; empty where nothing is like it."""
    close = difflib.get_close_matches(name, [*known], n=1)
    return f" — did you mean '{close[0]}'?" if close else ""


def _sentence(detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "missing":
        return "is required"
    if kind in EXPECTED:
        return EXPECTED[kind].format(**_context(detail.get("ctx", {})))
    message = detail["msg"].removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _context(context: Mapping[str, Any]) -> dict[str, Any]:
    # A bound of 1.0 reads better as 1.
    return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in context.items()}


def _either(texts: list[str]) -> str:
    first, *rest = dict.fromkeys(texts)
    return ", or ".join([first, *(text.removeprefix("must be ") for text in rest)])


def _show(value: Any) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
