"""Faults of parts: what a part returned that its interface does not allow, and which part raised an exception."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from itertools import takewhile
from types import FrameType
from typing import TypeVar

import torch

from distillkit.component import Component
from distillkit.errors import DistillkitError
from distillkit.registry.entry_points import Plugin, installed
from distillkit.registry.kinds import KINDS

T = TypeVar("T")


class PartError(DistillkitError):
    """A part gave something that its interface does not allow.

    Args:
        kind: the part's.
        message: the sentence.
    """

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


def wrong(part: Component | type[Component], what: str, given: object, expected: str) -> PartError:
    """The error that a part gave something else than its interface says.

    Args:
        part: the part, or its class.
        what: one of its methods, "per_sample()", or of its attributes, "spec.prediction".
        given: what it was, in a few words.
        expected: what the interface says.
    """
    verb = "gave" if what.endswith(")") else "is"
    return PartError(_kind(part), f"{heading(part)}: {what} {verb} {given}; expected {expected}")


def checked(part: Component | type[Component], what: str, value: T, fits: bool, expected: str) -> T:
    """What a part gave, if it fits its interface.

    Args:
        part: the part, or its class.
        what: the method or attribute that gave it.
        value: what it gave.
        fits: whether that is what the interface says.
        expected: what the interface says.

    Raises:
        PartError: it does not fit.
    """
    if not fits:
        raise wrong(part, what, described(value), expected)
    return value


def whole(part: Component, what: str, value: int, of: str, least: int) -> int:
    """The whole number that a part gave; `of` says of what, and `least` how many there are at least.

    Raises:
        PartError: it is none.
    """
    fits = type(value) is int and value >= least
    return checked(part, what, value, fits, f"a whole number of {of}, at least {least}")


def check_tensor(
    part: Component,
    what: str,
    value: object,
    shape: Sequence[int | None],
    meaning: str,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    finite: bool = False,
) -> None:
    """Check a tensor that a part gave.

    Args:
        part: the part.
        what: the method or attribute that gave it.
        value: what it gave.
        shape: the shape that it must have; None for a dimension that may have any size.
        meaning: what the tensor is, for the message.
        dtype: the type that it must have; None for any floating-point type.
        device: where it must be; None for anywhere.
        finite: whether its values must be finite, which waits for the device.

    Raises:
        PartError: it is something else.
    """
    expected = f"{'a floating-point tensor' if dtype is None else _name(dtype)} {_sizes(shape)}"
    if device is not None:
        expected += f" on {device}"
    fits = (
        isinstance(value, torch.Tensor)
        and len(value.shape) == len(shape)
        and all(wanted in (None, size) for wanted, size in zip(shape, value.shape, strict=True))
        and (value.is_floating_point() if dtype is None else value.dtype == dtype)
        and device in (None, value.device)
    )
    if not fits:
        raise wrong(part, what, described(value, device is not None), f"{expected}, {meaning}")
    if finite and isinstance(value, torch.Tensor) and not value.isfinite().all():
        raise wrong(part, what, f"{described(value)} with values that are not finite", f"finite ones: {meaning}")


def described(value: object, device: bool = False) -> str:
    """What a part gave, in a few words: type and shape of a tensor, and the type and the text of anything else."""
    # Nothing is a tensor where torch is not loaded, as in `distillkit check`, and its name would load it.
    if "torch" in sys.modules and isinstance(value, torch.Tensor):
        return f"{_name(value.dtype)} {_sizes(value.shape)}" + (f" on {value.device}" if device else "")
    text = repr(value)
    return text if len(text) <= 40 else f"an object of the type {type(value).__name__}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sizes(shape: Sequence[int | None]) -> str:
    return f"[{', '.join('…' if size is None else str(size) for size in shape)}]"


def heading(part: Component | type[Component]) -> str:
    """Package, kind and name of a part: "my-parts 0.1.0, loss 'pseudo-huber'"."""
    return f"{_package(_class(part).__module__)}, {_kind(part)} '{part.name}'"


def _kind(part: Component | type[Component]) -> str:
    return next(kind.name for kind in KINDS.values() if issubclass(_class(part), kind.base))


def raised_by(error: BaseException) -> str | None:
    """A sentence that names the part that raised an exception, and its method; None if no part did.

    A traceback names no package. The innermost part is named: one that called another, by way of the core, did not
    raise, and one that called a function of the core or of a library did. Only the core's own part of an update, which
    an engine calls, is nobody else's.
    """
    package, directly = None, True
    frames = [frame for frame, _ in reversed([*traceback.walk_tb(error.__traceback__)])]
    for i, frame in enumerate(frames):
        part, module = _part(frame), frame.f_globals.get("__name__", "")
        # Functions of a plugin belong to the part of their package that called them, and to any that did so directly.
        if part is not None and (package is None or directly or package == _package(_class(part).__module__)):
            return f"{heading(part)}: {_method(part, frames[i:])}() raised {type(error).__name__}"
        if package is None and module.startswith("distillkit.training."):
            return None
        plugin = _plugin(module)
        if package is None:
            package = None if plugin is None else _package(module)
        elif plugin is None:
            directly = False
    return None if package is None else f"{package}: one of its plugins raised {type(error).__name__}"


def _part(frame: FrameType) -> Component | type[Component] | None:
    """The part whose method a frame is."""
    owner = frame.f_locals.get("self", frame.f_locals.get("cls"))
    kinds = tuple(kind.base for kind in KINDS.values())
    return owner if isinstance(owner, kinds) or (isinstance(owner, type) and issubclass(owner, kinds)) else None


def _method(part: Component | type[Component], frames: Sequence[FrameType]) -> str:
    """The part's innermost method among the frames that others may call."""
    names = [frame.f_code.co_name for frame in frames if _part(frame) is part]
    called = (name for name in names if hasattr(part, name) and (name[0] != "_" or name.endswith("__")))
    return next(called, names[0])


def _class(part: Component | type[Component]) -> type[Component]:
    return part if isinstance(part, type) else type(part)


def _package(module: str) -> str:
    """The distribution of a plugin's module and its version; the module itself where no plugin has it."""
    plugin = _plugin(module)
    return module if plugin is None else f"{plugin.package} {plugin.version}"


def _plugin(module: str) -> Plugin | None:
    """The plugin whose entry point names the module, or else the nearest one of the same import package."""

    def common(entry: EntryPoint) -> int:
        pairs = zip(entry.module.split("."), module.split("."), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    near = max(installed(), key=lambda found: common(found[0]), default=None)
    return near[1] if near is not None and common(near[0]) else None
