"""Imports slow packages on first use.

Modules of distillkit and of plugins import torch, diffusers and the like at the top. The command line imports these
modules inside `lazy_imports`, so that commands such as `check` and `plan`, which do not use torch, start fast.
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
"""The packages to import lazily, with their submodules: `import torch.nn.functional as F` is lazy too."""


@contextmanager
def lazy_imports() -> Iterator[None]:
    """Within this context, `import torch` binds a stand-in, which imports torch when an attribute is first read.

    `from torch import nn` reads an attribute immediately, and so does a base class, a decorator or a default value.

    `importlib.util.LazyLoader` does not work here. At a module's second import, CPython reads its `__spec__`, which
    makes LazyLoader load the module. It also rejects diffusers and transformers, which replace themselves in
    `sys.modules`.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _forget_stand_ins()


class _StandIn(ModuleType):
    """Stands in for a module until one of its attributes is read, then takes over all of the module's attributes."""

    def __getattr__(self, name: str) -> Any:
        # The import system reads such attributes of every new module, and `inspect` of every module in sys.modules.
        if name.startswith("__") and name not in ("__version__", "__config__"):
            raise AttributeError(name)
        return getattr(self._load(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system sets such attributes on a new module, and a submodule as an attribute of its parent.
        if not name.startswith("__") and not isinstance(value, _StandIn):
            setattr(self._load(), name, value)
        super().__setattr__(name, value)

    def _load(self) -> ModuleType:
        """Import the module, and take over its attributes."""
        with _eager_imports():
            module = import_module(self.__name__)
        # Keep the stand-in of a submodule, which the module itself may not have imported.
        mine = {key for key, value in vars(self).items() if isinstance(value, _StandIn)}
        vars(self).update({key: value for key, value in vars(module).items() if key not in mine})
        return module


class _Finder(MetaPathFinder, Loader):
    """Creates stand-ins for the installed packages in `HEAVY`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        parent = sys.modules.get(name.rpartition(".")[0])
        inside = isinstance(parent, _StandIn)
        if not inside and name not in HEAVY:
            return None
        real = PathFinder.find_spec(name, vars(parent)["__locations__"] if inside else path)
        if real is None and inside:
            # It may exist without a file, as parts of extension modules do. If not, this raises.
            with _eager_imports():
                import_module(name)
        elif real is None:
            return None
        return ModuleSpec(name, self, is_package=True, loader_state=real and real.submodule_search_locations)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Remember where the submodules are; the stand-in loads the module later."""
        vars(module)["__locations__"] = module.__spec__ and module.__spec__.loader_state


@contextmanager
def _eager_imports() -> Iterator[None]:
    """Within this context, imports are not lazy."""
    finders = list(sys.meta_path)
    sys.meta_path[:] = [finder for finder in finders if not isinstance(finder, _Finder)]
    _forget_stand_ins()
    try:
        yield
    finally:
        added = [finder for finder in sys.meta_path if finder not in finders]
        sys.meta_path[:] = [*finders, *added]


def _forget_stand_ins() -> None:
    """Remove stand-ins from sys.modules, where other packages check whether torch is imported."""
    for name in [name for name, module in sys.modules.items() if isinstance(module, _StandIn)]:
        del sys.modules[name]
