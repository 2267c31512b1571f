"""Pixel-space U-Nets with EDM's preconditioning: α = 1, σ from σ_max to 0 (Karras et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import diffusers
import torch

from distillkit.errors import Mistake
from distillkit.interfaces import Export, Sampler
from distillkit.noise import EdmPath, NoisePath
from distillkit.noise.grids import RHO
from distillkit.solver import Scheduler
from distillkit_diffusers import schedulers
from distillkit_diffusers.families.unet import Unet2D
from distillkit_diffusers.scheduler_fields import EDMS
from distillkit_diffusers.times import TRAINED, Sampling, handed, known_to

SAYS = ("trailing", "linspace", "karras")
"""The spacings that an EDMEulerScheduler's config can say."""


def read_path(config: dict[str, Any]) -> EdmPath:
    """The noise path of a scheduler's config, with diffusers' grids, or, for an exported config, with the trained ones.

    Args:
        config: as in scheduler_config.json; `schedulers.check` finds no mistake in it.
    """
    rho = config.get("rho", 7.0) if config.get("sigma_schedule", "karras") == "karras" else None
    trained = config.get(TRAINED, {"sigma_min": config.get("sigma_min", 0.002), "spacing": "linspace"})
    times, most = config.get("num_train_timesteps", 1000), config.get("sigma_max", 80.0)
    return EdmPath(**{"sigma_max": most, "rho": rho, "times": times} | trained)


def make_scheduler(path: EdmPath, config: dict[str, Any], steps: int) -> Any:
    """An EDMEulerScheduler whose grid of `steps` steps is the path's own, or that can be handed its noise levels.

    The scheduler spaces σ^(1/ρ), or log σ, evenly from σ_max to σ_min. With the last nonzero σ of a trailing grid as
    σ_min, that is the trailing grid; with ρ = 7 as well, it is the one of "karras".
    """
    known = known_to(diffusers.EDMEulerScheduler, config) | {"final_sigmas_type": "zero"}
    last = path.alpha_sigma(path.grid(steps)[-2:-1])[1].item()
    known["sigma_min"] = last if path.spacing in SAYS else path.sigma_min
    # An exponential schedule ignores what it is handed.
    rho = RHO if path.spacing == "karras" or (path.rho is None and path.spacing not in SAYS) else path.rho
    known |= {"sigma_schedule": "exponential"} if rho is None else {"sigma_schedule": "karras", "rho": rho}
    scheduler = diffusers.EDMEulerScheduler(**known)
    if path.spacing != "linspace":
        trained = {"sigma_min": path.sigma_min, "rho": path.rho, "spacing": path.spacing}
        scheduler.register_to_config(**{TRAINED: trained})
    return scheduler


class Solver:
    """An EDMDPMSolverMultistepScheduler (DPM-Solver++(2M)) for a network that is asked for x̂ at the path's times.

    Args:
        path: the noise path.
        config: the scheduler's config.
        steps: the number of steps.
    """

    def __init__(self, path: EdmPath, config: dict[str, Any], steps: int) -> None:
        known = known_to(diffusers.EDMDPMSolverMultistepScheduler, config) | {"sigma_min": path.sigma_min}
        given = known | {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
        self._scheduler = diffusers.EDMDPMSolverMultistepScheduler(**given)
        schedulers.set_steps(self._scheduler, steps)
        # It would make x̂ of the output of a network without preconditioning.
        self._scheduler.precondition_outputs = lambda sample, model_output, sigma: model_output
        self.init_noise_sigma = self._scheduler.init_noise_sigma
        # Its noise levels are those of the path's linspace grid, but for a single exponential step, from σ_min.
        grid = path.with_grid("linspace").grid(steps)
        self._scheduler.sigmas = path.alpha_sigma(grid)[1].flatten()
        self.timesteps = grid[:-1]

    def scale_model_input(self, sample: torch.Tensor, timestep: Any) -> torch.Tensor:
        """The samples themselves."""
        return sample

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Any:
        """A step of the scheduler; `model_output` is x̂."""
        return self._scheduler.step(model_output, timestep, sample)


def _places(path: EdmPath, times: torch.Tensor) -> torch.Tensor:
    """What an EDMEulerScheduler calls sigmas: places in its schedule, from 0 at σ_max to 1 at σ_min."""
    if path.rho is None:
        schedule = EdmPath(path.sigma_min, path.sigma_max, RHO, path.times)
        times = schedule.time_of(path.alpha_sigma(times)[1].flatten().double())
    return 1 - times / path.times


def describe(steps: int) -> Sampling:
    """How a pipeline with the scheduler of `make_scheduler` samples, for the model card."""
    fit = f"exact at\n  {steps} steps (at other numbers diffusers spaces the noise levels differently)"
    return Sampling("deterministic (Euler)", fit)


def preconditioned(
    network: Any, z: torch.Tensor, sigma: torch.Tensor, config: Mapping[str, Any], inputs: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """x̂ = c_skip z + c_out F(c_in z, c_noise), [B, C, H, W] (Karras et al. 2022, table 1); σ is [B, 1, 1, 1].

    With "v_prediction" F has the opposite sign, as in diffusers.
    """
    data = config.get("sigma_data", 0.5)
    root = (sigma.square() + data**2).sqrt()
    out = sigma * data / root
    if config.get("prediction_type") == "v_prediction":
        out = -out
    noise = sigma.flatten().log() / 4
    x0: torch.Tensor = (data / root).square() * z + out * network(z / root, noise, **inputs, return_dict=False)[0]
    return x0


SCHEDULERS = tuple(name for fields in EDMS for name in fields.classes)
"""A network in pixel space with one of these schedulers is of this family."""


class Edm(Unet2D):
    """A `UNet2DModel` that an EDMEulerScheduler samples, unconditional or class-conditional.

    `forward` applies the preconditioning and returns x̂.
    """

    takes = frozenset({"network", "null_class", "guidance_input"})
    samplers: ClassVar[tuple[Sampler, ...]] = ("ddim",)

    path: EdmPath

    def check(self) -> Iterator[Mistake]:
        """Adds mistakes in the scheduler's config, which may be ConsistencyModelPipeline's own."""
        yield from super().check()
        if config := self.scheduler_config():
            yield from self.check_scheduler(config, EDMS)

    def read_scheduler(self) -> None:
        """Set `path` and `prediction` from `scheduler`."""
        self.path, self.prediction = read_path(self.scheduler), "sample"

    def forward(
        self, network: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """x̂, [B, C, H, W]."""
        return preconditioned(network, z, self.path.alpha_sigma(t)[1], self.scheduler, inputs)

    solvers: ClassVar[tuple[str, ...]] = ("dpmsolver++",)

    def solver(self, name: str, steps: int, path: NoisePath) -> Scheduler:
        """See `Model.solver`."""
        return Solver(cast(EdmPath, path), self.scheduler, steps)

    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """The scheduler for the trained grid, and its description for the model card."""
        path = cast(EdmPath, export.path)
        scheduler = make_scheduler(path, self.scheduler, export.steps)
        if path.spacing in SAYS:
            return scheduler, describe(export.steps)
        return scheduler, handed(export, "deterministic (Euler)", "sigmas", lambda times: _places(path, times))

    def can_export(self, spacing: str) -> bool:
        """Also "karras", without classes too."""
        return spacing in SAYS or super().can_export(spacing)

    def unconditional(self, network: torch.nn.Module, scheduler: Any) -> Any:
        """diffusers' only pipeline for U-Nets that scales noise and inputs by its scheduler."""
        return diffusers.ConsistencyModelPipeline(network, scheduler)
