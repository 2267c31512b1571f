"""Values out of files that may be hostile, in messages."""

from __future__ import annotations

import reprlib


class _Short(reprlib.Repr):
    """Cuts what is long, as `got` of a message."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 300

    def repr_int(self, x: int, level: int) -> str:
        """Python writes no integers of more than 4300 digits."""
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > 1000 else str(x)


def short(value: object, quoted: bool = False) -> str:
    """A value out of a file, for a message.

    Args:
        value: anything, of any length.
        quoted: whether strings are quoted. Those that are long, or that would not be seen as they are, always are.
    """
    if isinstance(value, str) and not quoted and len(value) <= 300 and value.isprintable():
        return value
    return _Short().repr(value)
