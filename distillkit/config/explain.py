"""Turns pydantic's errors into mistakes, each with its TOML key and one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

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
    """Convert an error of pydantic's to one mistake per key.

    Args:
        error: the error.
        prefix: the table's TOML key.
        table: the table that was validated.
        model: the model that it was validated against.
        owner: the component or table that has these options, for messages about an unknown one ("'linear'", "[run]").
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
    # For a union, pydantic reports an error for each member. Keep those that lie deepest in the value.
    inner = [key for key in expected if not any(other.startswith((f"{key}.", f"{key}[")) for other in expected)]
    return [Mistake(key, _either(expected[key]) + got.get(key, "")) for key in inner]


def unknown(name: str, owner: str, known: Iterable[str]) -> str:
    """The sentence about a key that `owner` does not have."""
    known = [*known]
    return f"unknown option of {owner}; it has: {', '.join(known) or 'none'}{did_you_mean(name, known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name; empty if no known name is similar."""
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


def toml_key(prefix: str, path: Iterable[int | str]) -> str:
    """`optimizer`, ("betas", 1) -> `optimizer.betas[1]`."""
    key = prefix
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def path_in(table: Any, loc: tuple[int | str, ...], missing: bool) -> list[int | str]:
    """A location without the names that pydantic gives to the members of unions, which are not in the table.

    Args:
        table: the table that was validated.
        loc: the location, as pydantic reports it.
        missing: whether its last entry is a key that is missing from the table.
    """
    path: list[int | str] = []
    here = table
    for i, part in enumerate(loc):
        if isinstance(here, Mapping) and (part in here or (missing and i == len(loc) - 1)):
            here = here.get(part)
        elif isinstance(here, list) and isinstance(part, int):
            here = here[part] if part < len(here) else None
        else:
            continue
        path.append(part)
    return path


def keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the table at a location inside `model`."""
    here: list[Any] = [model]
    for part in loc:
        # A location names a member of a union by its class, and a field by its name.
        named = [kind for kind in here if getattr(kind, "__name__", None) == part]
        here = named or [kind for parent in here for kind in _inside(parent, part)]
    models = [kind for kind in here if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return [field.alias or name for kind in models[:1] for name, field in kind.model_fields.items()]


def _inside(parent: Any, part: int | str) -> Iterator[Any]:
    if isinstance(parent, type) and issubclass(parent, BaseModel):
        for name, field in parent.model_fields.items():
            if part in (name, field.alias):
                yield from _members(field.annotation)
    else:
        for argument in get_args(parent):
            yield from _members(argument)


def _members(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, with unions and `Annotated` taken apart."""
    if get_origin(annotation) in (Union, UnionType):
        for argument in get_args(annotation):
            yield from _members(argument)
    elif get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    else:
        yield annotation
