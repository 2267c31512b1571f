"""Shards of trajectories in a folder: safetensors files, and a manifest with their origin and hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError

from distillkit.component import StrictModel
from distillkit.errors import DistillkitError
from distillkit.files import replacing
from distillkit.interfaces import Teacher
from distillkit.noise import NoisePath, Predictor

CLOSE = 1e-4
"""Tolerance for the numbers of a noise path, whose last digits depend on the processor."""


def teacher_of(student: Predictor, teacher: Teacher) -> dict[str, Any]:
    """Identify the teacher and the precision in which it would be evaluated now.

    The teacher is identified by the network that the run begins with, and by the teacher's own state, if it has any.
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
    alpha, sigma = (value.flatten().tolist() for value in path.alpha_sigma(times))
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
    """Describe the differences of two origins."""
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


MANIFEST = "manifest.json"


class Known(StrictModel):
    """The manifest's entry of a shard."""

    trajectories: int
    sha256: str


class Manifest(StrictModel):
    """manifest.json."""

    origin: dict[str, Any]
    shards: dict[str, Known]


class Store:
    """The trajectories of one teacher on one grid. Files are written atomically.

    Args:
        folder: the folder of the trajectories. It need not exist yet.
        origin: what the trajectories depend on.

    Raises:
        DistillkitError: the existing trajectories have another origin, or the manifest cannot be read.
    """

    def __init__(self, folder: Path, origin: Mapping[str, Any]) -> None:
        self.folder = folder
        self._origin = origin
        self._open: dict[int, dict[str, torch.Tensor]] = {}
        self._shards = self._known()

    def _known(self) -> dict[str, Known]:
        """Read the shards of the manifest, by name."""
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            return {}
        try:
            read = Manifest.model_validate_json(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            what = "it has another format" if isinstance(error, ValidationError) else error
            raise DistillkitError(
                f"{manifest}: cannot be read as a manifest of trajectories ({what}); delete {self.folder}, and they "
                "are generated again"
            ) from None
        if differing := differences(read.origin, self._origin):
            raise DistillkitError(
                f"{self.folder}: its trajectories are not this run's: {'; '.join(differing)}; set source.folder to "
                "another folder, or delete this one"
            )
        return read.shards

    def has(self, shard: int, count: int) -> bool:
        """Whether a shard exists, with at least `count` trajectories.

        Raises:
            DistillkitError: the shard is damaged.
        """
        file = self._file(shard)
        known = self._shards.get(file.name)
        if known is None or known.trajectories < count or not file.is_file():
            return False
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != known.sha256:
                raise DistillkitError(
                    f"{file}: is damaged (its SHA-256 is not that in {MANIFEST}); delete it, and it is generated again"
                )
        return True

    def write(self, shard: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Add a shard, unless another run has added it meanwhile.

        Args:
            shard: the number of the shard.
            tensors: tensors by name, each [trajectories, ...], on the CPU.

        Raises:
            DistillkitError: the folder cannot be written.
        """
        content = safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()})
        file = self._file(shard)
        count = len(next(iter(tensors.values())))
        self._shards = self._known()
        if self.has(shard, count):
            return
        self._shards[file.name] = Known(trajectories=count, sha256=hashlib.sha256(content).hexdigest())
        manifest = Manifest(origin={**self._origin}, shards=dict(sorted(self._shards.items())))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(file) as temporary:
                temporary.write_bytes(content)
            # The manifest comes last: a shard that it does not list is generated again.
            with replacing(self.folder / MANIFEST) as temporary:
                temporary.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise DistillkitError(f"{self.folder}: cannot be written ({error.strerror})") from None

    def read(self, shard: int) -> Mapping[str, torch.Tensor]:
        """The tensors of a shard, memory-mapped."""
        if shard not in self._open:
            self._open[shard] = safetensors.torch.load_file(self._file(shard))
        return self._open[shard]

    def _file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.safetensors"
