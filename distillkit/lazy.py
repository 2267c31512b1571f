"""Packages that take seconds to import, imported when they are first used.

Modules of distillkit and of plugins import torch, diffusers and the like at their top. The command line loads them
inside `lazy_imports`, so that `check` or `plan`, which use none of these packages, don't wait for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

HEAVY = (
    "PIL",
    "diffusers",
    "huggingface_hub",
    "mlflow",
    "numpy",
    "peft",
    "safetensors.torch",
    "sklearn",
    "sqlalchemy",
    "torch",
    "torch_fidelity",
    "torchmetrics",
    "transformers",
)
"""What is imported late. Each has its modules with it: `import torch.nn.functional as F` is late, too."""


@contextmanager
def lazy_imports() -> Iterator[None]:
    """Inside, `import torch` binds a stand-in that imports torch when one of its attributes is first read.

    `from torch import nn` reads one at once, and so does a base class, a decorator or a default value. importlib's own
    LazyLoader is no help: CPython reads the `__spec__` of a module at its second import, which makes LazyLoader load
    it; and it refuses diffusers and transformers, which put another module in their own place.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget_stand_ins()


class _StandIn(ModuleType):
    """Stands for a module until one of its attributes is read; from then on it has all of the module's."""

    def __getattr__(self, name: str) -> Any:
        # The import system asks for these of what it has just made.
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        with _eager_imports():
            module = import_module(self.__name__)
        for key, value in vars(module).items():
            # A stand-in for a submodule stays: the module itself may not have that yet.
            if not isinstance(vars(self).get(key), _StandIn):
                setattr(self, key, value)
        return getattr(module, name)


class _Finder(MetaPathFinder, Loader):
    """Makes stand-ins for the heavy packages that are installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        inside = isinstance(sys.modules.get(name.rpartition(".")[0]), _StandIn)
        if inside or (name in HEAVY and PathFinder.find_spec(name, path) is not None):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing yet."""


@contextmanager
def _eager_imports() -> Iterator[None]:
    """Inside, imports import."""
    found = list(sys.meta_path)
    sys.meta_path[:] = [finder for finder in found if not isinstance(finder, _Finder)]
    _forget_stand_ins()
    try:
        yield
    finally:
        added = [finder for finder in sys.meta_path if finder not in found]
        sys.meta_path[:] = [*found, *added]


def _forget_stand_ins() -> None:
    """Leave in sys.modules what is really imported: others look there for whether torch is in use."""
    for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
        del sys.modules[name]
