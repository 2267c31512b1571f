"""The options of the model "diffusers", and its prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Model
from distillkit.reading import read_text

LogSnr = Annotated[float, Field(ge=-25, le=25)]
"""Beyond these bounds diffusers' float32 betas cannot represent the ends of the schedule."""
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


class FamilyOptions(Model.Options):
    """
    Attributes:
        guidance_input: give the network an input for the guidance scale s, with this range, [low, high] (Meng et
            al. 2023, where w = s − 1). It needs a null class, and the preset "guided" to learn what
            the input means. A network that has the input keeps it.
        step_input: give the network an input for the step size: an embedding, zero at first, which is added to every
            time embedding. So one student can serve every number of steps. The exported pipeline is diffusers' own, set
            up for one number of steps. A folder that was exported with the input keeps it.
    """

    guidance_input: Annotated[tuple[Scale, Scale], AfterValidator(_rises)] | None = None
    step_input: bool = False


class DiffusersOptions(FamilyOptions):
    """
    Attributes:
        path: a folder that diffusers saved: a pipeline (`model_index.json`), or a bare network (`config.json`). Or
            "owner/name" on the Hugging Face hub: its cache's copy, or what the run then fetches.
        variant: which of the weights in the folder to read, where there are several: "fp16" reads
            `*.fp16.safetensors`. Parts other than the distilled network may lack it. Default: those without a
            variant's name, which are in full precision; or the only ones.
        subfolder: the folder of the distilled network in the pipeline's, if it is not "unet" or "transformer":
            training scripts write an average of the weights as "unet_ema".
        network: instead of `path`, the arguments of `UNet2DModel` for a new network.
        scheduler: the noise schedule, as in `scheduler_config.json` (`beta_schedule`, `beta_start`, `beta_end`,
            `num_train_timesteps`, `prediction_type`, …). Entries override those of the folder.
        cosine: instead of a β schedule, λ_min and λ_max of a cosine path: log SNR = −2 log tan(a·u + b) between
            them ([−20, 20] in the paper's training runs), for every real time. The network sees times as
            `scheduler.num_train_timesteps` counts them.
        scaling_factor: the factor by which the autoencoder's latents are multiplied, instead of its config's. CompVis's
            VQ autoencoders have 1; a config where diffusers wrote its default, 0.18215, is wrong.
        null_class: the class that means "no class", which guidance needs. An exported pipeline knows its own.
        prompts: the prompts of a text-conditional model: class i is prompt i. They are encoded once.
        prompts_file: instead of `prompts`, a text file with one prompt per line. Blank lines, and lines that begin
            with #, are skipped.
        negative_prompt: the negative prompt of classifier-free guidance. Default: the pipeline's own, which is the
            empty prompt, or, for an SDXL whose index has `force_zeros_for_empty_prompt`, an embedding of zeros.
            Guidance-distilled networks (Flux dev) have none.
        size: height and width of a text-conditional model's pictures in pixels, or one number for both. Default:
            the pipeline's own.
    """

    path: Path | None = None
    variant: str | None = None
    subfolder: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = None
    network: dict[str, Any] | None = None
    scheduler: dict[str, Any] = Field(default_factory=dict)
    cosine: Annotated[tuple[LogSnr, LogSnr], AfterValidator(_logsnr_rises)] | None = None
    scaling_factor: float | None = Field(None, gt=0)
    null_class: int | None = Field(None, ge=0)
    prompts: tuple[str, ...] | None = Field(None, min_length=1)
    prompts_file: Path | None = None
    negative_prompt: str | None = None
    size: Pixels | tuple[Pixels, Pixels] | None = None


PROMPT_OPTIONS = frozenset({"prompts", "prompts_file", "negative_prompt", "size"})
"""The options that only text-conditional families use."""


def check_prompts(options: DiffusersOptions, what: str) -> Iterator[Mistake]:
    """Mistakes in the prompts of the pipeline `what`: they must be given by exactly one of the two options."""
    if options.prompts is not None and options.prompts_file is not None:
        yield Mistake("prompts", "are given, and prompts_file as well; leave one of them out")
    elif options.prompts is None and options.prompts_file is None:
        yield Mistake(
            "prompts",
            f"are required: {what} makes pictures of texts; give a list of them, or a text file with one a line as "
            "prompts_file (on the command line: --prompts FILE)",
        )
    elif options.prompts_file is not None:
        try:
            _read_file(options.prompts_file)
        except DistillkitError as error:
            yield Mistake("prompts_file", str(error))


def read_prompts(options: DiffusersOptions) -> list[str]:
    """The prompts, in order.

    Raises:
        DistillkitError: the file cannot be read, or has no prompts.
    """
    return list(options.prompts or ()) if options.prompts_file is None else _read_file(options.prompts_file)


def _read_file(file: Path) -> list[str]:
    """The lines of a text file (UTF-8), except blank lines and lines that begin with #.

    Raises:
        DistillkitError: it cannot be read, or has no such lines.
    """
    lines = [line.strip() for line in read_text(file).splitlines()]
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise DistillkitError(
            f"{file}: has no prompts; expected one a line (blank lines, and those that begin with #, are skipped)"
        )
    return prompts
