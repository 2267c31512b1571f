"""U-Nets from a local folder, or new ones built from a config."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from distillkit.errors import Mistake
from distillkit.interfaces import Model
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.unet import Unet


class DiffusersUnet(Unet):
    """A `UNet2DModel` from a local folder (a pipeline's, or the network's own), or a new one built from a config."""

    name = "diffusers"

    class Options(Model.Options):
        """
        Attributes:
            path: a folder that diffusers saved: a pipeline (`model_index.json`), or a bare network (`config.json`).
            network: instead of `path`, the arguments of `UNet2DModel` for a new network.
            scheduler: noise schedule, as in `scheduler_config.json` (`beta_schedule`, `beta_start`, `beta_end`,
                `num_train_timesteps`, `prediction_type`, …), laid over what the folder says.
            null_class: the class that means "no class", which guidance needs. An exported pipeline knows its own.
        """

        path: Path | None = None
        network: dict[str, Any] | None = None
        scheduler: dict[str, Any] = Field(default_factory=dict)
        null_class: int | None = Field(None, ge=0)

    options: Options

    def check(self) -> Iterator[Mistake]:
        """The folder must be there and hold a network and a noise schedule."""
        options = self.options
        if (options.path is None) == (options.network is None):
            yield Mistake("path", "name either a local folder (path) or a new network's arguments (network)")
        elif options.path is not None:
            yield from PipelineFolder(options.path).check(bool(options.scheduler))
        elif not options.scheduler:
            yield Mistake("scheduler", "is required for a new network: its noise schedule, as in scheduler_config.json")

    def load(self) -> None:
        """Load or build the network."""
        from distillkit_diffusers import networks

        if self.options.path is None:
            self.use(networks.build(self.options.network or {}), self.options.scheduler, self.options.null_class)
            return
        folder = PipelineFolder(self.options.path)
        null_class = folder.null_class() if self.options.null_class is None else self.options.null_class
        self.use(networks.load(folder.network), folder.scheduler_config() | self.options.scheduler, null_class)

    @property
    def label(self) -> str:
        """The folder."""
        return "a new network" if self.options.path is None else str(self.options.path)
