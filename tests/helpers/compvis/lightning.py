"""What PyTorch Lightning 1.4 put into a checkpoint besides the weights."""

from __future__ import annotations

import sys
import types
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch

CALLBACK = "pytorch_lightning.callbacks.model_checkpoint"


@contextmanager
def callback() -> Iterator[type]:
    """Lightning's class, as long as a file with its name is written: nobody has to have Lightning to read one."""
    kind = type("ModelCheckpoint", (), {"__module__": CALLBACK})
    parts = CALLBACK.split(".")
    modules = {name: types.ModuleType(name) for name in accumulate(parts, "{}.{}".format)}
    vars(modules[CALLBACK])["ModelCheckpoint"] = kind
    sys.modules.update(modules)
    try:
        yield kind
    finally:
        for name in modules:
            del sys.modules[name]


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint with a state dict, the callbacks' and the optimiser's states, and numbers of numpy's."""
    with callback() as kind:
        content = {
            "epoch": 3,
            "global_step": 410,
            "pytorch-lightning_version": "1.4.2",
            "callbacks": {kind: {"monitor": "val/loss", "best_model_score": torch.tensor(0.1), "best_k_models": {}}},
            "optimizer_states": [{"state": {}, "param_groups": [{"lr": np.float64(2e-6)}]}],
            "lr_schedulers": [],
            "state_dict": {**state},
        }
        torch.save(content, path)
    _as_numpy_1(path)


def _as_numpy_1(path: Path) -> None:
    """numpy's module was called numpy.core then."""
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    [pickled] = [name for name in entries if name.endswith("/data.pkl")]
    assert b"cnumpy._core.multiarray\n" in entries[pickled]
    entries[pickled] = entries[pickled].replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
