"""What is in a folder that diffusers saved, without loading any of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError, Mistake

NETWORKS = ("UNet2DModel", "GuidedUNet2DModel")
WEIGHTS = "diffusion_pytorch_model"


@dataclass(frozen=True)
class PipelineFolder:
    """A pipeline's folder (unet/, scheduler/), or a bare network's."""

    path: Path

    @property
    def network(self) -> Path:
        """Where the network's config.json is."""
        return self.path / "unet" if (self.path / "unet").is_dir() else self.path

    def check(self, has_scheduler: bool) -> Iterator[Mistake]:
        """What keeps the folder from being loaded.

        Args:
            has_scheduler: whether the config brings the noise schedule.
        """
        if not self.path.is_dir():
            yield Mistake("path", f"there is no folder {self.path}; give a local folder that diffusers saved")
            return
        config = self.network / "config.json"
        if not config.is_file():
            yield Mistake(
                "path", f"{self.path} is not a diffusers pipeline: no unet/config.json, and no config.json of its own"
            )
            return
        try:
            found = _read(config).get("_class_name")
        except DistillkitError as error:
            yield Mistake("path", str(error))
            return
        if found not in NETWORKS:
            yield Mistake("path", f"{config}: the network is a {found}; supported: {', '.join(NETWORKS)}")
        elif not any(self.network.glob(f"{WEIGHTS}*.safetensors")):
            yield Mistake("path", f"{self.network} has no weights in safetensors format ({WEIGHTS}.safetensors)")
        if not has_scheduler and self._scheduler_file() is None:
            yield Mistake(
                "path",
                f"{self.path} has no scheduler/scheduler_config.json; give the noise schedule in [model.scheduler]",
            )

    def scheduler_config(self) -> dict[str, Any]:
        """The noise schedule's config; empty if the folder has none."""
        file = self._scheduler_file()
        return {} if file is None else _read(file)

    def null_class(self) -> int | None:
        """The null class that an exported pipeline was saved with."""
        index = self.path / "model_index.json"
        null_class = _read(index).get("null_class") if index.is_file() else None
        return null_class if isinstance(null_class, int) else None

    def _scheduler_file(self) -> Path | None:
        candidates = (self.path / "scheduler" / "scheduler_config.json", self.path / "scheduler_config.json")
        return next((file for file in candidates if file.is_file()), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DistillkitError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise DistillkitError(f"{file}: must hold a JSON object")
    return content
