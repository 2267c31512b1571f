"""Imports everything that a run imports: once, in the process that `forked_runs` forks."""

import pkgutil
from importlib import import_module
from pathlib import Path

import diffusers
import PIL.Image
import sklearn.datasets  # noqa: F401

import distillkit
from distillkit.registry import load_registry

load_registry()
PLUGINS = Path(distillkit.__path__[0]).parent / "plugins"
for name in ["distillkit", *(folder.name for folder in PLUGINS.glob("distillkit_*"))]:
    for module in pkgutil.walk_packages(import_module(name).__path__, f"{name}."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
for name in ("UNet2DModel", "DDIMScheduler", "LCMScheduler", "DiffusionPipeline", "DDIMPipeline"):
    getattr(diffusers, name)
PIL.Image.init()
