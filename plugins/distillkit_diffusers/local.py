"""U-Nets from a local folder, or new ones built from a config."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from distillkit.errors import Mistake
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.unet import Unet

LogSnr = Annotated[float, Field(ge=-25, le=25)]
"""Beyond, the float32 betas in which diffusers keeps a table say nothing about its ends."""


def _rises(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("must be [λ_min, λ_max], the lower first")
    return bounds


class DiffusersUnet(Unet):
    """A `UNet2DModel` from a local folder (a pipeline's, or the network's own), or a new one built from a config."""

    name = "diffusers"

    class Options(Unet.Options):
        """
        Attributes:
            path: a folder that diffusers saved: a pipeline (`model_index.json`), or a bare network (`config.json`).
            network: instead of `path`, the arguments of `UNet2DModel` for a new network.
            scheduler: noise schedule, as in `scheduler_config.json` (`beta_schedule`, `beta_start`, `beta_end`,
                `num_train_timesteps`, `prediction_type`, …), laid over what the folder says.
            cosine: instead of a β schedule, λ_min and λ_max of a cosine path: log SNR = −2 log tan(a·u + b) between
                them ([−20, 20] in the paper's training runs), for every real time. The network sees times as
                `scheduler.num_train_timesteps` counts them.
            null_class: the class that means "no class", which guidance needs. An exported pipeline knows its own.
        """

        path: Path | None = None
        network: dict[str, Any] | None = None
        scheduler: dict[str, Any] = Field(default_factory=dict)
        cosine: Annotated[tuple[LogSnr, LogSnr], AfterValidator(_rises)] | None = None
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
        if options.cosine is not None and (betas := [key for key in options.scheduler if "beta" in key]):
            yield Mistake("cosine", f"takes the place of a β schedule: leave out scheduler.{betas[0]}, or this")

    def load(self) -> None:
        """Load or build the network."""
        from distillkit_diffusers import networks

        options = self.options
        if options.path is None:
            self.use(networks.build(options.network or {}), options.scheduler, options.null_class, options.cosine)
            return
        folder = PipelineFolder(options.path)
        null_class = folder.null_class() if options.null_class is None else options.null_class
        scheduler = folder.scheduler_config() | options.scheduler
        self.use(networks.load(folder.network), scheduler, null_class, options.cosine)

    @property
    def untrained(self) -> bool:
        """Whether it was built from a config."""
        return self.options.path is None

    @property
    def label(self) -> str:
        """The folder."""
        return "a new network" if self.untrained else str(self.options.path)
