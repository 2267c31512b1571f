"""The prompts that a text-conditional model is told: from the config, or from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distillkit.errors import DistillkitError, Mistake
from distillkit_diffusers.options import DiffusersOptions

OPTIONS = frozenset({"prompts", "prompts_file", "negative_prompt", "size"})
"""The model's options that mean something to text-conditional families alone."""


def check(options: DiffusersOptions, what: str) -> Iterator[Mistake]:
    """There must be prompts, in one place. `what` is told them, in a sentence."""
    if options.prompts is not None and options.prompts_file is not None:
        yield Mistake("prompts", "are given, and prompts_file as well; leave one of them out")
    elif options.prompts is None and options.prompts_file is None:
        yield Mistake(
            "prompts",
            f"are required: {what} makes pictures of texts; give a list of them, or a text file with one a line as "
            "prompts_file (on the command line: --prompts FILE)",
        )
    elif options.prompts_file is not None:
        try:
            read_file(options.prompts_file)
        except DistillkitError as error:
            yield Mistake("prompts_file", str(error))


def read(options: DiffusersOptions) -> list[str]:
    """The prompts, in their order.

    Raises:
        DistillkitError: the file cannot be read, or holds none.
    """
    return list(options.prompts or ()) if options.prompts_file is None else read_file(options.prompts_file)


def read_file(file: Path) -> list[str]:
    """The lines of a text file (UTF-8), but for blank ones and those that begin with #.

    Raises:
        DistillkitError: it cannot be read, or has no such lines.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise DistillkitError(f"{file}: cannot be read as a text file ({error})") from None
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise DistillkitError(
            f"{file}: has no prompts; expected one a line (blank lines, and those that begin with #, are skipped)"
        )
    return prompts
