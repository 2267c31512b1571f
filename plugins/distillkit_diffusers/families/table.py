"""Variance-preserving noise paths: diffusers' schedulers with betas, and the base class of families that have one."""

from __future__ import annotations

from typing import Any, cast

import diffusers
import torch

from distillkit.errors import DistillkitError
from distillkit.interfaces import Export, Sampler
from distillkit.noise import CosinePath, PredictionType, TablePath
from distillkit.noise.path import Spacing
from distillkit.sampling import TIMESTEP_SCALING
from distillkit_diffusers.export import Sampling
from distillkit_diffusers.families.family import Family

KINDS = ("epsilon", "v_prediction", "sample")


def read_path(config: dict[str, Any], cosine: tuple[float, float] | None = None) -> tuple[TablePath, PredictionType]:
    """The noise path of a scheduler's config, and what its network predicts.

    Args:
        config: as in scheduler_config.json.
        cosine: λ_min and λ_max for a cosine path instead (see `with_cosine`).

    Raises:
        DistillkitError: it is not the config of a variance-preserving schedule, or an ε-network has to start from
            zero signal, where x̂ = (z − σε̂)/α is not defined.
    """
    kind = config.get("prediction_type", "epsilon")
    if kind not in KINDS:
        raise DistillkitError(f"scheduler: prediction_type is '{kind}'; expected one of {', '.join(KINDS)}")
    if cosine is not None:
        return CosinePath(config["num_train_timesteps"], cosine), kind
    if "_class_name" in config and "beta_schedule" not in config:
        raise DistillkitError(
            f"scheduler: {config['_class_name']} has no β schedule; expected a variance-preserving one, as that of "
            "DDPMScheduler or DDIMScheduler; if the network has one, give it in [model.scheduler]"
        )
    if sampler_of(config) == "consistency" and config.get("timestep_scaling", TIMESTEP_SCALING) != TIMESTEP_SCALING:
        raise DistillkitError(
            f"scheduler: timestep_scaling is {config['timestep_scaling']:g}; expected {TIMESTEP_SCALING:g}, which the "
            "boundary scalings of consistency sampling have here"
        )
    bars: torch.Tensor = _read_by_diffusers(config).alphas_cumprod
    if kind == "epsilon" and bars[-1] <= 0:
        raise DistillkitError(
            "scheduler: rescale_betas_zero_snr makes the last time pure noise, where an ε-prediction says nothing "
            "about x; use a v- or x-prediction network, or a schedule without it"
        )
    spacing = config.get("timestep_spacing") if config.get("_class_name") in EXPORTED else "trailing"
    return TablePath(bars, cast(Spacing, spacing or "trailing")), kind


def with_cosine(config: dict[str, Any], cosine: tuple[float, float]) -> dict[str, Any]:
    """A scheduler's config with the betas of a cosine path at whole times; diffusers' schedulers have no others.

    Args:
        config: as in scheduler_config.json; its betas are replaced.
        cosine: λ_min and λ_max.

    Raises:
        DistillkitError: `num_train_timesteps` is not a positive integer.
    """
    times = config.get("num_train_timesteps", 1000)
    if not isinstance(times, int) or times < 1:
        raise DistillkitError(f"model.scheduler.num_train_timesteps: expected a whole number from 1 on (got {times!r})")
    rest = {key: value for key, value in config.items() if "beta" not in key}
    return rest | _betas(CosinePath(times, cosine))


EXPORTED = ("DDIMScheduler", "DPMSolverMultistepScheduler")
LCM_ONLY = ("original_inference_steps", "timestep_scaling")
"""Keys of LCMScheduler's config that other schedulers do not take."""


def sampler_of(config: dict[str, Any]) -> Sampler:
    """The sampler of a pipeline with this scheduler's config."""
    return "consistency" if config.get("_class_name") == "LCMScheduler" else "ddim"


def _read_by_diffusers(config: dict[str, Any]) -> Any:
    """A DDIMScheduler with the noise schedule of any scheduler's config."""
    known = {key: value for key, value in config.items() if not key.startswith("_") and key not in LCM_ONLY}
    try:
        # All discrete schedulers of diffusers use the same keys for betas.
        return diffusers.DDIMScheduler.from_config(known | {"timestep_spacing": "trailing"})
    except (TypeError, ValueError, NotImplementedError) as error:
        raise DistillkitError(f"scheduler: diffusers does not take this noise schedule: {error}") from error


def make_scheduler(path: TablePath, kind: PredictionType, config: dict[str, Any], steps: int, sampler: Sampler) -> Any:
    """A scheduler of diffusers' that visits exactly the path's times in `steps` steps.

    For consistency sampling LCMScheduler, which has the path's `consistency_times` at every number of steps. Otherwise
    DDIM, if its rule, previous time = t − ⌊T/S⌋, gives the path's times; else DPM-Solver++ of order 1, which makes the
    same deterministic step with explicit times (diffusers #9261, #11347). If the path's times are not whole numbers,
    the scheduler rounds them.
    """
    # Only leading grids use the offset, but Stable Diffusion's pipeline requires it to be 1.
    common = _table(path, config) | {"prediction_type": kind, "timestep_spacing": path.spacing, "steps_offset": 1}
    if sampler == "consistency":
        return diffusers.LCMScheduler(**common, original_inference_steps=path.start + 1)
    exact = path.spacing == "trailing" and (path.start + 1) % steps == 0
    exact |= path.spacing == "leading"
    if exact:
        return diffusers.DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True)
    solver = {"algorithm_type": "dpmsolver++", "solver_order": 1, "final_sigmas_type": "zero"}
    return diffusers.DPMSolverMultistepScheduler(**common, **solver)


def describe(path: TablePath, steps: int, sampler: Sampler) -> Sampling:
    """How a pipeline with the scheduler of `make_scheduler` samples, for the model card."""
    if sampler == "consistency":
        rule = "multistep consistency (LCMScheduler): every step jumps to clean data; all but the last add noise"
        return Sampling(rule, "\n  exact at every number of steps")
    grid = path.grid(steps)
    if torch.equal(grid, grid.round()):
        fit = f"exact at\n  {steps} steps (at other numbers diffusers may round times differently)"
    else:
        fit = f"but at\n  {steps} steps that has times between whole numbers, which diffusers rounds"
    return Sampling("deterministic (DDIM)", fit)


def _table(path: TablePath, config: dict[str, Any]) -> dict[str, Any]:
    """The noise schedule as arguments of a scheduler: unchanged, or a list of betas up to an earlier start time."""
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    if path.start + 1 == len(path.alphas_cumprod):
        # With all defaults written out, which differ between schedulers.
        known = _read_by_diffusers(config).config
        return {key: known[key] for key in keys if known[key] is not None}
    return _betas(path)


def _betas(path: TablePath) -> dict[str, Any]:
    """The times from 0 to the start, as a list of betas."""
    bars = path.alphas_cumprod[: path.start + 1]
    betas = 1 - bars / torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    return {"num_train_timesteps": len(bars), "trained_betas": betas.tolist()}


class TableFamily(Family):
    """A family whose scheduler has betas; a subclass's `load` calls `read_scheduler`."""

    path: TablePath

    def read_scheduler(self) -> None:
        """Set `path` (a table of ᾱ, or a cosine path) and `prediction` from `scheduler`."""
        cosine = self.options.cosine
        if cosine is not None:
            self.scheduler = with_cosine(self.scheduler, cosine)
        self.path, self.prediction = read_path(self.scheduler, cosine)

    @property
    def sampler(self) -> Sampler:
        """Consistency for an LCMScheduler."""
        return sampler_of(self.scheduler)

    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """The scheduler for the trained grid, and its description for the model card."""
        path = cast(TablePath, export.path)
        scheduler = make_scheduler(path, self.prediction, self.scheduler, export.steps, export.sampler)
        return scheduler, describe(path, export.steps, export.sampler)
