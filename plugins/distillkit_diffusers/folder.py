"""Reads folders that diffusers saved, without loading their networks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import StudentTable

WEIGHTS = "diffusion_pytorch_model"
PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class PipelineFolder:
    """The folder of a pipeline (model_index.json, and a folder for each part), or of a bare network."""

    path: Path

    def part(self, name: str) -> Path:
        """The folder of a part; this folder itself for a bare network."""
        return self.path / name if (self.path / name).is_dir() else self.path

    @property
    def index(self) -> dict[str, Any]:
        """model_index.json; empty if there is none."""
        file = self.path / "model_index.json"
        return read_json(file) if file.is_file() else {}

    @property
    def pipeline_class(self) -> str | None:
        """The name of the pipeline's class; None for a bare network."""
        found = self.index.get("_class_name")
        # With a file of its own, it is [file, class].
        return str(found[-1]) if isinstance(found, list) and found else found or None

    @property
    def components(self) -> dict[str, str]:
        """The parts of the pipeline, and the names of their classes."""
        entries = {name: entry for name, entry in self.index.items() if isinstance(entry, list) and name[0] != "_"}
        return {name: entry[1] for name, entry in entries.items() if entry[1] is not None}

    @property
    def network_class(self) -> str | None:
        """The name of the class of the U-Net, or of the bare network."""
        return read_json(self.part("unet") / "config.json").get("_class_name")

    def check_there(self) -> None:
        """Check that the folder was saved by diffusers.

        Raises:
            DistillkitError: it does not exist, or has none of diffusers' files.
        """
        if not self.path.is_dir():
            raise DistillkitError(f"there is no folder {self.path}; give a local folder that diffusers saved")
        if not any((self.path / file).is_file() for file in ("model_index.json", "unet/config.json", "config.json")):
            raise DistillkitError(
                f"{self.path} is not a diffusers pipeline: no model_index.json, no unet/config.json, and no "
                "config.json of its own"
            )

    def check_network(self, part: str, classes: Sequence[str]) -> Iterator[Mistake]:
        """Mistakes in a part with weights, before it is loaded.

        Args:
            part: the name of its folder.
            classes: the classes that it may have.
        """
        folder = self.part(part)
        config = folder / "config.json"
        if not config.is_file():
            yield Mistake("path", f"{self.path} has no {part}/config.json, which {self.pipeline_class} needs")
            return
        written = read_json(config)
        # diffusers writes the first key, and transformers, which has the text encoders, the second.
        found = written.get("_class_name") or next(iter(written.get("architectures") or []), None)
        if found not in classes:
            yield Mistake("path", f"{config}: the network is a {found}; supported: {', '.join(classes)}")
        else:
            yield from _check_weights(folder)

    def has_weights(self, name: str) -> bool:
        """Whether a part has the weights that it needs, as safetensors; true of tokenizers and the like."""
        folder = self.path / name
        # Only networks have a config of this name.
        return not (folder / "config.json").is_file() or any(folder.glob("*.safetensors"))

    def check_components(self) -> Iterator[Mistake]:
        """Mistakes where the index names a part that has no folder."""
        for name in self.components:
            if Path(name).name != name or not (self.path / name).is_dir():
                yield Mistake("path", f"{self.path / 'model_index.json'}: names '{name}', which is no folder beside it")

    def check_scheduler(self, given: bool) -> Iterator[Mistake]:
        """A mistake if there is no noise schedule, neither `given` by the config nor in the folder."""
        if not given and self._scheduler_file() is None:
            yield Mistake(
                "path",
                f"{self.path} has no scheduler/scheduler_config.json; give the noise schedule in [model.scheduler]",
            )

    def parameters(self, part: str) -> int:
        """The number of parameters of a part, from the headers of its files.

        Raises:
            DistillkitError: a file is damaged.
        """
        return sum(map(prod, self._shapes(part).values()))

    def adapter_parameters(self, part: str, student: StudentTable) -> int:
        """The number of parameters of an adapter of a part's network: rank·(in + out) per layer.

        Normalization layers, whose weights have one dimension, get no adapter. Raises as `parameters`.
        """
        layers = {
            name.removesuffix(".weight"): shape
            for name, shape in self._shapes(part).items()
            if name.endswith(".weight") and len(shape) in (2, 4)
        }
        wanted = student.target_modules
        return sum(
            student.rank * (shape[0] + prod(shape[1:]))
            for name, shape in layers.items()
            if wanted is None or any(name == target or name.endswith(f".{target}") for target in wanted)
        )

    def _shapes(self, part: str) -> dict[str, list[int]]:
        """The shapes of the weights by name."""
        return {name: shape for file in _weights(self.part(part)) for name, shape in _shapes(file).items()}

    def sample_size(self, part: str) -> tuple[int, int] | None:
        """(H, W) of the samples that a network takes; None if its config does not say."""
        file = self.part(part) / "config.json"
        match read_json(file).get("sample_size"):
            case None:
                return None
            case int(size):
                return size, size
            case [int(height), int(width)]:
                return height, width
            case found:
                raise DistillkitError(f"{file}: sample_size must be one number or two (got {found!r})")

    def scheduler_config(self) -> dict[str, Any]:
        """The config of the scheduler; empty if the folder has none."""
        file = self._scheduler_file()
        return {} if file is None else read_json(file)

    def null_class(self) -> int | None:
        """The null class that an exported pipeline was saved with; None if there is none."""
        null_class = self.index.get("null_class")
        return null_class if isinstance(null_class, int) else None

    def _scheduler_file(self) -> Path | None:
        candidates = (self.path / "scheduler" / "scheduler_config.json", self.path / "scheduler_config.json")
        return next((file for file in candidates if file.is_file()), None)


def _check_weights(folder: Path) -> Iterator[Mistake]:
    """Weights must be safetensors, and an index of shards must name files of its own folder."""
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        yield Mistake(
            "path",
            f"{folder} has its weights as a pickle ({pickles[0]}), which may run code when it is opened; expected "
            f"safetensors: save the pipeline anew, with diffusers' save_pretrained"
            if pickles
            else f"{folder} has no weights in safetensors format ({WEIGHTS}.safetensors)",
        )
    for index in sorted(folder.glob("*.safetensors.index.json")):
        weight_map = read_json(index).get("weight_map")
        names = weight_map.values() if isinstance(weight_map, dict) else [weight_map]
        for name in sorted({str(name) for name in names}):
            if Path(name).name != name:
                yield Mistake("path", f"{index}: names '{name}', which is not a file of its own folder")
            elif not (folder / name).is_file():
                yield Mistake("path", f"{index}: names '{name}', which is not there")


def _weights(folder: Path) -> list[Path]:
    """The files of a part's folder that diffusers loads: those in full precision before the variant fp16."""
    for half in ("", ".fp16"):
        file = folder / f"{WEIGHTS}{half}.safetensors"
        if file.is_file():
            return [file]
        index = folder / f"{WEIGHTS}.safetensors.index{half}.json"
        if index.is_file():
            return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    return []


def _shapes(file: Path) -> dict[str, list[int]]:
    try:
        with safe_open(file, framework="np") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.offset_keys()}
    except (OSError, SafetensorError) as error:
        raise DistillkitError(f"{file}: cannot be read as safetensors ({error})") from None


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DistillkitError: the file cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DistillkitError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise DistillkitError(f"{file}: must hold a JSON object")
    return content
