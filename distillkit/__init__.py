"""distillkit: make a diffusion model sample in a few steps."""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("distillkit")
"""Marks a plugin's functions as implementations of the hooks in `distillkit.hookspecs`."""


def load_pipeline(folder: str | PathLike[str], steps: int | None = None, guidance: float | None = None) -> Any:
    """Load an exported pipeline for a number of sampling steps, as `distillkit export` makes it.

    Args:
        folder: a run's folder, or a pipeline that distillkit exported.
        steps: the number of sampling steps, 1 or more: the scheduler has their times, and a network that takes the step
            size becomes diffusers' own for them. None loads the pipeline as it was exported.
        guidance: with `steps`, the guidance scale s (1 is none). A network that was taught several scales becomes one
            for this scale. None for the run's, or the pipeline's own.

    Returns:
        diffusers' pipeline, float32, on the CPU. The folder stays as it is. Code that a pipeline brings is trusted, and
        diffusers copies it to its cache of modules, as with `trust_remote_code=True`.

    Raises:
        DistillkitError: there is no such pipeline, or it cannot be sampled so.
    """
    # Plugins and the command line import this package, and what follows imports torch and diffusers.
    return import_module("distillkit.exporting").load_pipeline(Path(folder), steps, guidance)
