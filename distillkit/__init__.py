"""distillkit: make a diffusion model sample in a few steps."""

import pluggy

__version__ = "0.1.0"

hookimpl = pluggy.HookimplMarker("distillkit")
"""Marks a plugin's functions as implementations of the hooks in `distillkit.hookspecs`."""
