"""The model "diffusers": a pipeline that diffusers saved, of any family, or a new network built from a config."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from distillkit.errors import ConfigError, DistillkitError, Mistake
from distillkit.interfaces import Export, GuidanceInput, Inventory, Model, Sampler, StudentTable
from distillkit_diffusers import families, hub
from distillkit_diffusers.families import prompts
from distillkit_diffusers.folder import PipelineFolder

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distillkit.noise import Condition
    from distillkit_diffusers.families.family import Family

LogSnr = Annotated[float, Field(ge=-25, le=25)]
"""Beyond, the float32 betas in which diffusers keeps a table say nothing about its ends."""
Scale = Annotated[float, Field(ge=0)]
Pixels = Annotated[int, Field(ge=1)]


def _rises(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("must be [low, high], the lower first")
    return bounds


def _logsnr_rises(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("must be [λ_min, λ_max], the lower first")
    return bounds


class FamilyModel(Model):
    """A model that a family makes; a subclass says which."""

    class Options(Model.Options):
        """
        Attributes:
            guidance_input: give the network an input for the guidance scale s, and these scales, [low, high], to be
                told (Meng et al. 2023, where w = s − 1). It needs a null class, and the preset "guided" to learn what
                the input means. A network that has the input keeps it.
        """

        guidance_input: Annotated[tuple[Scale, Scale], AfterValidator(_rises)] | None = None

    options: Options
    family: Family

    @abstractmethod
    def find_family(self) -> Family:
        """The family, which has loaded nothing yet.

        Raises:
            DistillkitError: there is none for what the options name.
        """

    def inventory(self, student: StudentTable | None = None) -> Inventory | None:
        """What the family finds in its files."""
        return self.find_family().inventory(student)

    def load(self) -> None:
        """Load everything that the family needs."""
        self.family = self.find_family()
        # Again, as it may have been fetched since.
        if mistakes := [Mistake(f"model.{mistake.key}", mistake.message) for mistake in self.family.check()]:
            raise ConfigError(mistakes, self.label)
        self.family.load()
        self.network = self.family.network
        self.path = self.family.path
        self.prediction = self.family.prediction
        self.sample_shape = self.family.sample_shape
        self.classes = self.family.classes

    def adapt(self, student: StudentTable) -> None:
        """Give the network a LoRA."""
        from distillkit_diffusers import lora

        lora.add(self.network, student)

    def set_grid(self, spacing: str, start: int | str | None) -> None:
        """Set spacing and start of the path's grids; "auto" looks at what the network predicts."""
        self.family.set_grid(spacing, start)
        self.path = self.family.path

    def forward(self, network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Call the network as its family does."""
        return self.family.forward(network, z, t, inputs)

    def condition(self, labels: Tensor | None, count: int, guidance: Tensor | None = None) -> Condition:
        """What the family makes of labels and scales."""
        return self.family.condition(labels, count, guidance)

    def encode(self, images: Tensor) -> Tensor:
        """Images -> what the network works on."""
        return self.family.encode(images)

    def decode(self, samples: Tensor) -> Tensor:
        """What the network works on -> images."""
        return self.family.decode(samples)

    @property
    def supports_guidance(self) -> bool:
        """Whether there is a null condition."""
        return self.family.supports_guidance

    @property
    def guidance_input(self) -> GuidanceInput | None:
        """The network's input for the guidance scale."""
        return self.family.guidance_input

    @property
    def sampler(self) -> Sampler:
        """As the pipeline's scheduler says."""
        return self.family.sampler

    @property
    def samplers(self) -> Sequence[Sampler]:
        """What diffusers' schedulers for the family can do."""
        return self.family.samplers

    def export(self, network: nn.Module, folder: Path, export: Export) -> None:
        """Write a pipeline folder: the network, the parts that were not trained, the scheduler and a model card."""
        from distillkit_diffusers import lora

        lora.fuse(network)
        self.family.export(network, folder, export)

    def export_adapter(self, network: nn.Module, folder: Path) -> None:
        """Write the LoRA as diffusers' loaders take it."""
        from distillkit_diffusers import lora

        lora.write(network, "transformer" if "transformer" in self.family.parts else "unet", folder)


class DiffusersModel(FamilyModel):
    """A pipeline that diffusers saved, whose own files say what kind it is; or a new `UNet2DModel`."""

    name = "diffusers"
    kept = prompts.OPTIONS

    class Options(FamilyModel.Options):
        """
        Attributes:
            path: a folder that diffusers saved: a pipeline (`model_index.json`), or a bare network (`config.json`). Or
                "owner/name" on the Hugging Face hub: its cache's copy, or what the run then fetches.
            network: instead of `path`, the arguments of `UNet2DModel` for a new network.
            scheduler: noise schedule, as in `scheduler_config.json` (`beta_schedule`, `beta_start`, `beta_end`,
                `num_train_timesteps`, `prediction_type`, …), laid over what the folder says.
            cosine: instead of a β schedule, λ_min and λ_max of a cosine path: log SNR = −2 log tan(a·u + b) between
                them ([−20, 20] in the paper's training runs), for every real time. The network sees times as
                `scheduler.num_train_timesteps` counts them.
            scaling_factor: what the autoencoder's latents are multiplied by, instead of what its config says. CompVis's
                VQ autoencoders have 1; where that was left out and diffusers wrote its own 0.18215, it is wrong.
            null_class: the class that means "no class", which guidance needs. An exported pipeline knows its own.
            prompts: what a text-conditional model is told: class i is prompt i. They are encoded once.
            prompts_file: instead of `prompts`, a text file with one a line. Blank lines, and those that begin with #,
                are skipped.
            negative_prompt: what guidance compares a prompt with. Left out, it is the pipeline's own for none: the
                empty one, or, for an SDXL whose index says `force_zeros_for_empty_prompt`, zeros in place of its
                embedding.
            size: height and width of a text-conditional model's pictures in pixels, or one number for both; left out,
                the pipeline's own.
        """

        path: Path | None = None
        network: dict[str, Any] | None = None
        scheduler: dict[str, Any] = Field(default_factory=dict)
        cosine: Annotated[tuple[LogSnr, LogSnr], AfterValidator(_logsnr_rises)] | None = None
        scaling_factor: float | None = Field(None, gt=0)
        null_class: int | None = Field(None, ge=0)
        prompts: tuple[str, ...] | None = Field(None, min_length=1)
        prompts_file: Path | None = None
        negative_prompt: str | None = None
        size: Pixels | tuple[Pixels, Pixels] | None = None

    options: Options

    def check(self) -> Iterator[Mistake]:
        """There must be a pipeline that a family is for, with all that the family needs."""
        options = self.options
        if (options.path is None) == (options.network is None):
            yield Mistake("path", "name either a folder (path) or a new network's arguments (network)")
        elif options.path is None and not options.scheduler:
            yield Mistake("scheduler", "is required for a new network: its noise schedule, as in scheduler_config.json")
        elif options.path is None or not hub.is_unknown(options.path):
            try:
                yield from self.find_family().check()
            except DistillkitError as error:
                yield Mistake("path", str(error))
        if options.cosine is not None and (betas := [key for key in options.scheduler if "beta" in key]):
            yield Mistake("cosine", f"takes the place of a β schedule: leave out scheduler.{betas[0]}, or this")

    def find_family(self) -> Family:
        """The family of the folder, or of new networks."""
        options = self.options
        folder = None if options.path is None else PipelineFolder(hub.local_folder(options.path))
        scheduler = (folder.scheduler_config() if folder else {}) | options.scheduler
        return families.family_of(folder, scheduler)(options, folder)

    @property
    def untrained(self) -> bool:
        """Whether it was built from a config."""
        return self.options.path is None

    @property
    def label(self) -> str:
        """The folder."""
        return "a new network" if self.untrained else str(self.options.path)
