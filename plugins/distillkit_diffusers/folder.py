"""Reads folders that diffusers saved, without loading their networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import StudentTable
from distillkit_diffusers import candidates, weights
from distillkit_diffusers.headers import Weights
from distillkit_diffusers.reading import read_json
from distillkit_diffusers.weights import DISTILLED, VariantError


@dataclass(frozen=True)
class PipelineFolder:
    """The folder of a pipeline (model_index.json, and a folder for each part), or of a bare network.

    Attributes:
        path: the folder.
        variant: the variant of the weights to read; None: see `weights.choose`. Parts other than the distilled network
            may lack it.
        subfolder: the distilled network's folder, if it has not its usual name.
    """

    path: Path
    variant: str | None = None
    subfolder: str | None = None

    def part(self, name: str) -> Path:
        """The folder of a part; this folder itself for a bare network."""
        if name in DISTILLED and self.subfolder is not None:
            return self.path / self.subfolder
        return self.path / name if (self.path / name).is_dir() else self.path

    def weights(self, part: str) -> Weights:
        """The files with the weights of a part.

        Raises:
            DistillkitError: there are none, or not of the variant that is wanted.
        """
        return weights.find(self.part(part), self.variant, strict=part in DISTILLED)

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
        return str(found[-1] if isinstance(found, list) else found) if found else None

    @property
    def components(self) -> dict[str, str]:
        """The parts of the pipeline, and the names of their classes."""
        entries = {name: entry for name, entry in self.index.items() if isinstance(entry, list) and name[:1] != "_"}
        return {name: entry[1] for name, entry in entries.items() if len(entry) == 2 and entry[1] is not None}

    @property
    def network_class(self) -> str | None:
        """The name of the class of the U-Net, or of the bare network."""
        found = read_json(self.part("unet") / "config.json").get("_class_name")
        return None if found is None else str(found)

    def check_there(self) -> None:
        """Check that the folder was saved by diffusers.

        Raises:
            DistillkitError: it does not exist, or has none of diffusers' files.
        """
        if self.path.is_file():
            raise DistillkitError(
                f"{self.path} is a file; expected a folder that diffusers saved, with the network's config.json"
                f"{candidates.of_file(self.path)}"
            )
        if not self.path.is_dir():
            raise DistillkitError(f"there is no folder {self.path}; give a local folder that diffusers saved")
        if self.subfolder is not None and not (self.path / self.subfolder).is_dir():
            raise DistillkitError(f"there is no folder {self.path / self.subfolder} (model.subfolder)")
        network = self.part("unet") / "config.json"
        if not (self.path / "model_index.json").is_file() and not network.is_file():
            raise DistillkitError(
                f"{self.path} is not a diffusers pipeline: no model_index.json, no unet/config.json, and no "
                f"config.json of its own{candidates.in_folder(self.path)}"
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
            needs = f"{self.path} has no {part}/config.json, which {self.pipeline_class} needs"
            yield Mistake("path", f"{needs}{candidates.beside(self.path / part)}")
            return
        written = read_json(config)
        # diffusers writes the first key, and transformers, which has the text encoders, the second.
        architectures = written.get("architectures")
        found = written.get("_class_name") or (
            next(iter(architectures), None) if isinstance(architectures, list) else architectures
        )
        if found not in classes:
            yield Mistake("path", f"{config}: the network is a {found}; supported: {', '.join(classes)}")
        else:
            yield from self.check_weights(part)

    def check_weights(self, part: str) -> Iterator[Mistake]:
        """Mistakes in the files of weights, whose headers are read."""
        used, config = None, self.part(part) / "config.json"
        try:
            if "quantization_config" in read_json(config):
                yield Mistake("path", f"{config}: has a quantization_config; give the network as it was before that")
            found = self.weights(part)
            used = found.variant
            found.shapes()
        except VariantError as error:
            yield Mistake("variant", str(error))
        except DistillkitError as error:
            yield Mistake("path", f"{error}{candidates.beside(self.part(part), used)}")

    def has_weights(self, name: str) -> bool:
        """Whether a part has the weights that it needs, as safetensors; true of tokenizers and the like."""
        return not self.is_network(name) or bool(weights.variants_in(self.path / name))

    def is_network(self, name: str) -> bool:
        """Only networks have a config of this name."""
        return (self.path / name / "config.json").is_file()

    def check_scheduler(self, given: bool) -> Iterator[Mistake]:
        """A mistake if there is no noise schedule, neither `given` by the config nor in the folder."""
        if not given and self.scheduler_file is None:
            yield Mistake(
                "path",
                f"{self.path} has no scheduler/scheduler_config.json; give the noise schedule in [model.scheduler]",
            )

    def parameters(self, part: str) -> int:
        """The number of parameters of a part, from the headers of its files.

        Raises:
            DistillkitError: there are no weights, or a file is damaged.
        """
        return sum(map(prod, self.weights(part).shapes().values()))

    def adapter_parameters(self, part: str, student: StudentTable) -> int:
        """The number of parameters of an adapter of a part's network: rank·(in + out) per layer.

        Normalization layers, whose weights have one dimension, get no adapter. Raises as `parameters`.
        """
        layers = {
            name.removesuffix(".weight"): shape
            for name, shape in self.weights(part).shapes().items()
            if name.endswith(".weight") and len(shape) in (2, 4)
        }
        wanted = student.target_modules
        return sum(
            student.rank * (shape[0] + prod(shape[1:]))
            for name, shape in layers.items()
            if wanted is None or any(name == target or name.endswith(f".{target}") for target in wanted)
        )

    def sample_size(self, part: str) -> tuple[int, int] | None:
        """(H, W) of the samples that a network takes; None if its config does not say."""
        file = self.part(part) / "config.json"
        match read_json(file).get("sample_size"):
            case None:
                return None
            case int(size) if size > 0:
                return size, size
            case [int(height), int(width)] if height > 0 and width > 0:
                return height, width
            case found:
                raise DistillkitError(f"{file}: sample_size must be one number or two, above 0 (got {found!r})")

    def levels(self, part: str, default: int) -> int:
        """The number of a network's levels, each half as high and wide as the one above.

        Args:
            part: the part.
            default: diffusers' number, where its config does not say.
        """
        file = self.part(part) / "config.json"
        channels = read_json(file).get("block_out_channels", [0] * default)
        if not isinstance(channels, list):
            raise DistillkitError(f"{file}: block_out_channels must be a list (got {channels!r})")
        return len(channels)

    def scheduler_config(self) -> dict[str, Any]:
        """The config of the scheduler; empty if the folder has none."""
        file = self.scheduler_file
        return {} if file is None else read_json(file)

    def null_class(self) -> int | None:
        """The null class that an exported pipeline was saved with; None if there is none."""
        null_class = self.index.get("null_class")
        return null_class if isinstance(null_class, int) else None

    @property
    def guidance(self) -> float:
        """The guidance scale that the pipeline was saved with; 1 (none) if its index has none."""
        scale = self.index.get("guidance_scale", 1.0)
        if not isinstance(scale, int | float):
            raise DistillkitError(f"{self.path / 'model_index.json'}: guidance_scale must be a number (got {scale!r})")
        return float(scale)

    @property
    def scheduler_file(self) -> Path | None:
        """The file with the scheduler's config; None if the folder has none."""
        candidates = (self.path / "scheduler" / "scheduler_config.json", self.path / "scheduler_config.json")
        return next((file for file in candidates if file.is_file()), None)
