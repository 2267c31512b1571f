"""Where a mistake is: pydantic's locations as TOML keys, and the keys that a table there may have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


def toml_key(prefix: str, path: Iterable[int | str]) -> str:
    """`optimizer`, ("betas", 1) -> `optimizer.betas[1]`."""
    key = prefix
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def path_in(table: Any, loc: tuple[int | str, ...], missing: bool) -> list[int | str]:
    """A location without the names that pydantic gives to a union's members: only steps that the table can take.

    Args:
        table: what was checked.
        loc: the location, as pydantic tells it.
        missing: whether its last step is a key that should have been there.
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
        # A union's member goes by its class's name; a field leads to what its annotation may be.
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
