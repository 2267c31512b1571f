"""Shards of trajectories in a folder: safetensors files, and a manifest with their origin and hashes."""

from __future__ import annotations

import hashlib
import json
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


def teacher_of(student: Predictor, teacher: Teacher) -> dict[str, Any]:
    """Identify the teacher and the precision in which it would be evaluated now.

    A teacher that gives its network's predictions as they are is identified by that network alone; any other by its
    name, its options and its state, and by the network that the run begins with.
    """
    device = student.device.type
    autocast = torch.is_autocast_enabled(device)
    asked = teacher.predictor
    own = {}
    if asked is None:
        options = [f"{key} = {value}" for key, value in teacher.options]
        own = {"state": hash_of(teacher.state_dict()), "teacher": ", ".join([teacher.name, *options])}
    return own | {
        "weights": hash_of((asked or student).network.state_dict()),
        "prediction": student.kind,
        "precision": str(torch.get_autocast_dtype(device) if autocast else torch.float32).removeprefix("torch."),
    }


def grid_of(path: NoisePath, steps: int) -> dict[str, Any]:
    """The path's grid of `steps` steps, rounded, because the last digits depend on the processor."""
    times = path.grid(steps)
    alpha, sigma = ([round(value, 4) for value in values.flatten().tolist()] for values in path.alpha_sigma(times))
    return {"times": [round(t, 3) for t in times.tolist()], "alpha": alpha, "sigma": sigma}


def hash_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """The first 64 bits of the SHA-256 of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


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
        top: the folder of the store's own folder. It need not exist yet.
        name: what the folder's name begins with; it goes on with a hash of the origin.
        origin: what the trajectories depend on.

    Raises:
        DistillkitError: the manifest of existing trajectories cannot be read.
    """

    def __init__(self, top: Path, name: str, origin: Mapping[str, Any]) -> None:
        text = json.dumps({**origin}, sort_keys=True)
        self.folder = top / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
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
