"""Watches a method for one call: what it gives is checked, and that it leaves the tensors it gets as they are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch

from distillkit.component import Component
from distillkit.noise import Predictor
from distillkit.registry import wrong


def watch(
    owner: Component | Predictor, name: str, check: Callable[..., bool | None], part: Component | None = None
) -> None:
    """Check the next result of a method.

    Args:
        owner: whose method it is.
        name: the method's.
        check: gets the result and the arguments. False: the result after it is checked, too.
        part: the part that must leave the arguments as they are; None: they may change.
    """
    method, own = getattr(owner, name), name in vars(owner)
    # A check that is still waiting is replaced.
    method, own = getattr(method, "watched", (method, own))

    def watching(*arguments: Any, **named: Any) -> Any:
        before = _versions(method, arguments, named) if part is not None else {}
        value = method(*arguments, **named)
        if part is not None:
            after = _versions(method, arguments, named)
            if changed := [label for label, version in before.items() if after.get(label) != version]:
                # A predictor's is its model's.
                what = "forward()" if name == "forward_network" else f"{name}()"
                expected = "arguments that stay as they are, as others use them: no methods such as sub_() and no -="
                raise wrong(part, what, f"a result, but changed {changed[0]} in place", expected)
        if check(value, *arguments, **named) is not False:
            if own:
                setattr(owner, name, method)
            else:
                vars(owner).pop(name, None)
        return value

    watching.watched = method, own  # type: ignore[attr-defined]
    setattr(owner, name, watching)


def _versions(method: Callable[..., Any], arguments: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, int]:
    """How often each tensor among the arguments was changed in place, by its label, such as "jumps.z"."""
    bound = inspect.signature(method).bind(*arguments, **named).arguments
    return {label: tensor._version for label, tensor in _tensors(bound) if not tensor.is_inference()}


def _tensors(values: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            yield f"{of}{name}", value
        elif is_dataclass(value) or isinstance(value, Mapping):
            yield from _tensors(value if isinstance(value, Mapping) else vars(value), f"{of}{name}.")
