"""What diffusers and transformers print: silenced where distillkit says it itself, or where it is of no use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import diffusers
import transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what the libraries log."""
    loggers = [diffusers.utils.logging, transformers.utils.logging]
    before = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
    try:
        yield
    finally:
        for logger, verbosity in zip(loggers, before, strict=True):
            logger.set_verbosity(verbosity)


@contextmanager
def without_bars(wanted: bool) -> Iterator[None]:
    """Without the libraries' progress bars, if that is wanted."""
    loggers = [diffusers.utils.logging, transformers.utils.logging] if wanted else []
    shown = [logger for logger in loggers if logger.is_progress_bar_enabled()]
    for logger in shown:
        logger.disable_progress_bar()
    try:
        yield
    finally:
        for logger in shown:
            logger.enable_progress_bar()
