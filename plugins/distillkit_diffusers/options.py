"""The options of models that are pipelines, and the prompts that they name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Model

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


class FamilyOptions(Model.Options):
    """
    Attributes:
        guidance_input: give the network an input for the guidance scale s, and these scales, [low, high], to be
            told (Meng et al. 2023, where w = s − 1). It needs a null class, and the preset "guided" to learn what
            the input means. A network that has the input keeps it.
    """

    guidance_input: Annotated[tuple[Scale, Scale], AfterValidator(_rises)] | None = None


class DiffusersOptions(FamilyOptions):
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


PROMPT_OPTIONS = frozenset({"prompts", "prompts_file", "negative_prompt", "size"})
"""The model's options that mean something to text-conditional families alone."""


def check_prompts(options: DiffusersOptions, what: str) -> Iterator[Mistake]:
    """There must be prompts, in one place. `what` is told them, in a sentence."""
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
    """The prompts, in their order.

    Raises:
        DistillkitError: the file cannot be read, or holds none.
    """
    return list(options.prompts or ()) if options.prompts_file is None else _read_file(options.prompts_file)


def _read_file(file: Path) -> list[str]:
    """The lines of a text file (UTF-8), but for blank ones and those that begin with #.

    Raises:
        DistillkitError: it cannot be read, or has no such lines.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise DistillkitError(f"{file}: cannot be read as a text file ({error})") from None
    prompts = [line for line in lines if line and not line.startswith("#")]
    if not prompts:
        raise DistillkitError(
            f"{file}: has no prompts; expected one a line (blank lines, and those that begin with #, are skipped)"
        )
    return prompts
