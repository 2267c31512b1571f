"""Classes that diffusers lacks, each in a file that needs only torch and diffusers: exported folders bring it along.

The modules define subclasses of torch's and diffusers' classes, and are therefore imported at first use.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

MODULES = ("any_steps", "any_steps_classes", "class_conditional", "class_embedder", "guided_unet", "step_table")


def __getattr__(name: str) -> ModuleType:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
