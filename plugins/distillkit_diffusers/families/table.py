"""Variance-preserving noise paths: diffusers' schedulers with betas, and the base class of families that have one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, cast

import diffusers
import torch

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Export, Sampler
from distillkit.noise import CosinePath, NoisePath, PredictionType, TablePath
from distillkit.solver import Scheduler
from distillkit_diffusers import schedulers
from distillkit_diffusers.families.family import Family
from distillkit_diffusers.scheduler_fields import BETA_SCHEDULES, BETAS, TABLES
from distillkit_diffusers.scheduler_values import DEFAULTS
from distillkit_diffusers.times import TRAINED, Sampling, handed, has_own


def read_path(config: dict[str, Any], cosine: tuple[float, float] | None = None) -> tuple[TablePath, PredictionType]:
    """The noise path of a scheduler's config, and what its network predicts.

    Its grids are the scheduler's own, where distillkit has such grids, and trailing ones otherwise.

    Args:
        config: as in scheduler_config.json; `schedulers.check` finds no mistake in it.
        cosine: λ_min and λ_max for a cosine path instead (see `with_cosine`).

    Raises:
        DistillkitError: diffusers lacks a package that the class needs, or an ε-network has to start from zero signal,
            where x̂ = (z − σε̂)/α is not defined.
    """
    kind = config.get("prediction_type", "epsilon")
    if cosine is not None:
        return CosinePath(config["num_train_timesteps"], cosine), kind
    scheduler = schedulers.make(config, TABLES)
    # Not its `alphas_cumprod`, where some classes have 2^-24 in the place of 0.
    bars = torch.cumprod(1.0 - scheduler.betas, dim=0)
    if kind == "epsilon" and bars[-1] <= 0:
        raise DistillkitError(
            "model.scheduler: its betas make the last time pure noise, where an ε-prediction says nothing about x; use "
            "a v- or x-prediction network, or smaller betas"
        )
    known = scheduler.config
    origin = known["original_inference_steps"] if sampler_of(config) == "consistency" else None
    if trained := config.get(TRAINED):
        return TablePath(bars, trained["spacing"], offset=trained["offset"], origin=origin), kind
    spacing = known.get("timestep_spacing")
    if spacing not in SPACINGS.get(type(scheduler).__name__, ()):
        spacing = "trailing"
    offset = known["steps_offset"] if spacing == "leading" else 1
    return TablePath(bars, spacing, offset=offset, origin=origin), kind


def with_cosine(config: dict[str, Any], cosine: tuple[float, float]) -> dict[str, Any]:
    """A scheduler's config with the betas of a cosine path at whole times; diffusers' schedulers have no others.

    Args:
        config: as in scheduler_config.json; its betas are replaced.
        cosine: λ_min and λ_max.
    """
    return _without_betas(config) | _betas(CosinePath(config.get("num_train_timesteps", 1000), cosine))


SPACINGS = {
    "DDIMScheduler": ("trailing", "leading"),
    "DDIMParallelScheduler": ("trailing", "leading"),
    "DPMSolverMultistepScheduler": ("trailing", "linspace"),
}
"""The values of `timestep_spacing` with which a class of schedulers has distillkit's grids."""


def sampler_of(config: dict[str, Any]) -> Sampler:
    """The sampler of a pipeline with this scheduler's config."""
    return "consistency" if config.get("_class_name") == "LCMScheduler" else "ddim"


def make_scheduler(path: TablePath, kind: PredictionType, config: dict[str, Any], steps: int, sampler: Sampler) -> Any:
    """A scheduler of diffusers' that visits exactly the path's times in `steps` steps, or that can be handed them.

    For consistency sampling LCMScheduler, which has the path's `consistency_times` at every number of steps. Otherwise
    DDIM, if its rule, previous time = t − ⌊T/S⌋, gives the path's times; else DPM-Solver++ of order 1, which makes the
    same deterministic step with explicit times (diffusers #9261, #11347). If the path's times are not whole numbers,
    the scheduler rounds them.
    """
    own = has_own(path.spacing)
    # Only leading grids use the offset, but Stable Diffusion's pipeline requires it to be 1.
    common = _table(path, config) | {"prediction_type": kind, "steps_offset": path.offset}
    common |= {"timestep_spacing": "trailing" if own else path.spacing}
    if sampler == "consistency":
        return diffusers.LCMScheduler(**common, original_inference_steps=path.origin or path.start + 1)
    exact = path.spacing == "trailing" and (path.start + 1) % steps == 0
    exact |= path.spacing == "leading"
    if exact:
        return diffusers.DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True)
    if not path.alphas_cumprod[path.start]:
        # Where α = 0, it would take 2⁻¹². This is the noisiest last β, in float32, with which it is finite.
        betas = [*schedulers.make(config, TABLES).betas.tolist()[:-1], 1 - 2**-24]
        common |= {"trained_betas": betas, "rescale_betas_zero_snr": False}
    solver = {"algorithm_type": "dpmsolver++", "solver_order": 1, "final_sigmas_type": "zero"}
    scheduler = diffusers.DPMSolverMultistepScheduler(**common, **solver)
    if own:
        scheduler.register_to_config(**{TRAINED: {"spacing": path.spacing, "offset": path.offset}})
    return scheduler


_DPM = ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2})
_UNIPC = ("UniPCMultistepScheduler", {"solver_order": 2})
_KARRAS = {"use_karras_sigmas": True}
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpmsolver++-karras": (_DPM[0], _DPM[1] | _KARRAS),
    "dpmsolver++": _DPM,
    "unipc-karras": (_UNIPC[0], _UNIPC[1] | _KARRAS),
    "unipc": _UNIPC,
}
"""The class of each solver, and its fields. Those without Karras' noise levels have trailing times."""


def make_solver(name: str, path: TablePath, kind: PredictionType, config: dict[str, Any], steps: int) -> Scheduler:
    """One of `SOLVERS`, set to `steps` steps from the path's start.

    Args:
        name: its name.
        path: the run's noise path.
        kind: what the network predicts.
        config: the scheduler's config.
        steps: the number of steps.
    """
    class_name, fields = SOLVERS[name]
    scheduler: Scheduler = getattr(diffusers, class_name)(
        **_table(path, config), **fields, prediction_type=kind, timestep_spacing="trailing"
    )
    schedulers.set_steps(scheduler, steps)
    return scheduler


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
    if path.start + 1 < len(path.alphas_cumprod):
        return _betas(path)
    scheduler = schedulers.make(config, TABLES)
    # With all defaults written out, which differ between schedulers.
    known = {key: scheduler.config.get(key) for key in BETAS.keys() - {"prediction_type"}}
    if known["beta_schedule"] not in BETA_SCHEDULES:
        return {"num_train_timesteps": len(scheduler.betas), "trained_betas": scheduler.betas.tolist()}
    return {key: value for key, value in known.items() if value is not None}


def _without_betas(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if "beta" not in key}


def _betas(path: TablePath) -> dict[str, Any]:
    """The times from 0 to the start, as a list of betas."""
    bars = path.alphas_cumprod[: path.start + 1]
    betas = 1 - bars / torch.cat([torch.ones(1, dtype=torch.float64), bars[:-1]])
    return {"num_train_timesteps": len(bars), "trained_betas": betas.tolist()}


class TableFamily(Family):
    """A family whose scheduler has betas; a subclass's `load` calls `read_scheduler`."""

    path: TablePath

    def check(self) -> Iterator[Mistake]:
        """Adds mistakes in the scheduler's config."""
        yield from super().check()
        config = self.scheduler_config()
        yield from self.check_scheduler(config if self.options.cosine is None else _without_betas(config), TABLES)

    def most_steps(self) -> int | None:
        """The number of times; a cosine path has every real time."""
        count = self.scheduler_config().get("num_train_timesteps", DEFAULTS["num_train_timesteps"])
        return count if self.options.cosine is None and isinstance(count, int) else None

    def has_grid(self, spacing: str, start: int | str) -> bool:
        """Not "karras" where grids begin at pure noise, at which σ/α = ∞."""
        config = self.scheduler_config()
        pure = bool(config.get("rescale_betas_zero_snr")) and self.options.cosine is None
        return not (pure and start == "auto" and "karras" in spacing)

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

    solvers: ClassVar[tuple[str, ...]] = tuple(SOLVERS)

    def solver(self, name: str, steps: int, path: NoisePath) -> Scheduler:
        """See `Model.solver`."""
        return make_solver(name, cast(TablePath, path), self.prediction, self.scheduler, steps)

    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """The scheduler for the trained grid, and its description for the model card."""
        path = cast(TablePath, export.path)
        scheduler = make_scheduler(path, self.prediction, self.scheduler, export.steps, export.sampler)
        if has_own(path.spacing):
            sampling = handed(export, "deterministic (DDIM)", "timesteps", lambda times: times.round().long())
            rounded = path.grid(export.steps).is_floating_point()
            fit = "with\n  the times below, which are rounded, as diffusers has only whole ones"
            return scheduler, sampling._replace(fit=fit) if rounded else sampling
        return scheduler, describe(path, export.steps, export.sampler)
