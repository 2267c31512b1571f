"""What made a set of trajectories, in JSON's terms, and in what two of them differ."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from distillkit.interfaces import Teacher
from distillkit.noise import NoisePath, Predictor

CLOSE = 1e-4
"""How far numbers of a noise path may lie apart: another processor's last digit is no other path."""


def teacher_of(student: Predictor, teacher: Teacher) -> dict[str, Any]:
    """The teacher, in the precision in which it would be evaluated now.

    It is told by the network that the run begins with, and by what the teacher has of its own, if it has anything.
    """
    options = [f"{key} = {value}" for key, value in teacher.options]
    device = student.device.type
    autocast = torch.is_autocast_enabled(device)
    return {
        "weights": hash_of(student.network.state_dict()),
        "state": hash_of(teacher.state_dict()),
        "teacher": ", ".join([teacher.name, *options]),
        "prediction": student.kind,
        "precision": str(torch.get_autocast_dtype(device) if autocast else torch.float32).removeprefix("torch."),
    }


def grid_of(path: NoisePath, steps: int) -> dict[str, Any]:
    """The path's grid of `steps` steps."""
    times = path.grid(steps)
    alpha, sigma = (value.flatten().tolist() for value in (path.alpha(times), path.sigma(times)))
    return {"steps": steps, "times": times.tolist(), "alpha": alpha, "sigma": sigma}


def hash_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """The first 64 bits of the SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what two origins differ, in words."""
    keys = [key for key in here if not _same(there.get(key), here[key])]
    return [f"{NAMES.get(key, key)} {_short(there.get(key))} there and {_short(here[key])} here" for key in keys]


NAMES = {
    "weights": "the teacher's weights (their hash)",
    "state": "the teacher's own state (its hash)",
    "teacher": "the teacher",
    "prediction": "the network's prediction",
    "steps": "N",
    "times": "the grid's times",
    "alpha": "the noise path's α",
    "sigma": "the noise path's σ",
    "shape": "the samples' shape",
}


def _same(there: Any, here: Any) -> bool:
    if isinstance(there, list) and isinstance(here, list):
        return len(there) == len(here) and all(abs(a - b) <= CLOSE for a, b in zip(there, here, strict=True))
    return bool(there == here)


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 4:
        return f"[{value[0]:g}, {value[1]:g}, …, {value[-1]:g}]"
    return str(value)
