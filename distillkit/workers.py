"""The processes that carry out one run together. With a single one, all of this is the identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


def rank() -> int:
    """Which process this is, from 0."""
    return 0


def count() -> int:
    """How many processes there are."""
    return 1


def is_first() -> bool:
    """Whether this is the process that prints, records and writes for all."""
    return rank() == 0


def barrier() -> None:
    """Wait until all processes are here."""


def agree(flag: bool) -> bool:
    """Whether the flag is set in any process; all get the same answer."""
    return flag


def from_first(value: T) -> T:
    """The first process's value, which all get."""
    return value


def gather(tensor: Tensor) -> Tensor:
    """All processes' tensors, one behind the other: [n, ...] of each -> [sum of n, ...]."""
    return tensor


def part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that is equal in all of them: [count · b, ...] -> [b, ...]."""
    return tensor
