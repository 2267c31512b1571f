"""Flow matching: FlowMatchEulerDiscreteScheduler, and the base class of families that have it."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, sqrt
from typing import Any, ClassVar, Literal, cast

import diffusers

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Export, Sampler
from distillkit.noise import FlowPath, NoisePath
from distillkit.solver import Scheduler
from distillkit_diffusers import schedulers
from distillkit_diffusers.families.family import Family
from distillkit_diffusers.scheduler_fields import FLOWS
from distillkit_diffusers.times import TRAINED, Sampling, handed, has_own, known_to


def read_path(config: dict[str, Any], spacing: str, length: int | None = None) -> FlowPath:
    """The noise path of a scheduler's config.

    Args:
        config: as in scheduler_config.json; `schedulers.check` finds no mistake in it.
        spacing: the grids of the pipeline: "linspace" if the scheduler makes them, "trailing" if the pipeline passes
            it 1 − i/S. An exported config has its own spacing.
        length: the number of tokens of an image, on which a dynamic shift depends.

    Raises:
        DistillkitError: a dynamic shift has no length, or is no shift.
    """
    schedulers.make(config, FLOWS)
    times = config.get("num_train_timesteps", 1000)
    if trained := config.get(TRAINED):
        grids = {"spacing": "trailing", "cleanest": _cleanest(trained["shift"], times)} | trained
        return FlowPath(times, only_trailing=spacing == "trailing", **grids)
    if config.get("use_dynamic_shifting"):
        shift, cleanest = dynamic_shift(config, length), 1 / times
    else:
        # diffusers shifts first the range of its grids, and then the grid itself.
        shift = config.get("shift", 1.0)
        cleanest = _cleanest(shift, times)
    terminal = config.get("shift_terminal") or None
    return FlowPath(times, shift, spacing, cleanest, terminal, only_trailing=spacing == "trailing")


def _cleanest(shift: float, times: int) -> float:
    """The last place of a scheduler's own grid, if its shift is the same for all images."""
    return shift / (times + shift - 1)


def dynamic_shift(config: dict[str, Any], length: int | None) -> float:
    """The shift for images of `length` tokens: e^μ ("exponential") or μ ("linear"), μ being linear in the length.

    As diffusers' pipelines of Flux and Stable Diffusion 3 compute it.
    """
    if length is None:
        raise DistillkitError("model.scheduler.use_dynamic_shifting: is set, and the family has no images of tokens")
    base, most = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu: float = low + (high - low) * (length - base) / (most - base)
    if config.get("time_shift_type", "exponential") == "exponential":
        return exp(mu)
    if mu <= 0:
        raise DistillkitError(
            f"model.scheduler.base_shift: a linear shift from {low:g} at {base} tokens to {high:g} at {most} is {mu:g} "
            f"for images of {length}; expected more than 0"
        )
    return mu


def make_scheduler(path: FlowPath, config: dict[str, Any], steps: int, pipeline: str) -> Any:
    """A FlowMatchEulerDiscreteScheduler whose grid of `steps` steps is the path's own, or that takes its noise levels.

    Args:
        path: the path with the trained grids.
        config: the original one.
        steps: the number of steps.
        pipeline: the grids of the pipeline; see `read_path`.

    Raises:
        DistillkitError: the path has trailing grids and a shift too large for what diffusers' config can say.
    """
    known = known_to(diffusers.FlowMatchEulerDiscreteScheduler, config)
    if path.spacing == pipeline and TRAINED not in config:
        return diffusers.FlowMatchEulerDiscreteScheduler(**known)
    trained: dict[str, Any] = {"shift": path.shift}
    if path.spacing == pipeline:
        grids = {"shift": path.shift, "shift_terminal": path.terminal}
    elif has_own(path.spacing):
        # It would shift what it is handed.
        grids = {"shift": 1.0, "shift_terminal": None}
        trained |= {"spacing": path.spacing, "cleanest": path.cleanest, "terminal": path.terminal}
    else:
        grids = _as_linspace(path, steps)
    # A dynamic shift is a constant for images of one size.
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**known | {"use_dynamic_shifting": False} | grids)
    if path.spacing != pipeline:
        scheduler.register_to_config(**{TRAINED: trained})
    return scheduler


def _as_linspace(path: FlowPath, steps: int) -> dict[str, Any]:
    """`shift` and `shift_terminal` with which the scheduler's own grid of S steps is the path's trailing one.

    In v = 1 − p a trailing grid is 1 − σ = v/(s − (s − 1)v) for v = 0, 1/S, …, 1 − 1/S. The scheduler, shifting by s',
    has κw/(s' − (s' − 1)w), with w evenly from 0 to 1 − s'/(T + s' − 1), and κ so that the last σ is
    `shift_terminal`. They are the same where ((s' − 1)/s')(T − 1)/(T + s' − 1) = (1 − 1/S)(s − 1)/s, which is
    quadratic in s'.
    """
    if steps == 1:
        return {"shift_terminal": None}
    rest = path.times - 1
    c = (1 - 1 / steps) * (1 - 1 / path.shift)
    discriminant = (rest * (1 - c)) ** 2 - 4 * c * rest
    if discriminant < 0:
        raise DistillkitError(
            f"model.scheduler: diffusers' config cannot say a trailing grid of {steps} steps with a shift of "
            f'{path.shift:g}; set grid.spacing to "linspace", or scheduler.shift to a smaller number'
        )
    shift = 2 * rest / (rest * (1 - c) + sqrt(discriminant))
    return {"shift": shift, "shift_terminal": path.grid(steps)[-2].item() / path.times}


def describe(path: FlowPath, steps: int, pipeline: str) -> Sampling:
    """How a pipeline with the scheduler of `make_scheduler` samples, for the model card."""
    if path.spacing == pipeline:
        return Sampling("deterministic (Euler)", "\n  exact at every number of steps")
    fit = f"exact at\n  {steps} steps (at other numbers diffusers spaces the noise levels differently)"
    return Sampling("deterministic (Euler)", fit)


SOLVERS = {"dpmsolver++": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}
"""The class of each solver."""


def make_solver(name: str, path: FlowPath, steps: int) -> Scheduler:
    """One of `SOLVERS`, of order 2, set to `steps` steps at the noise levels that it has for the path's shift."""
    scheduler: Scheduler = getattr(diffusers, SOLVERS[name])(
        num_train_timesteps=path.times,
        prediction_type="flow_prediction",
        solver_order=2,
        use_flow_sigmas=True,
        flow_shift=path.shift,
    )
    schedulers.set_steps(scheduler, steps)
    return scheduler


class FlowFamily(Family):
    """A family with a FlowMatchEulerDiscreteScheduler; a subclass's `load` calls `read_scheduler`."""

    pipeline_spacing: ClassVar[Literal["trailing", "linspace"]]
    """The grids of its pipeline; see `read_path`."""
    samplers: ClassVar[tuple[Sampler, ...]] = ("ddim",)

    path: FlowPath

    def check(self) -> Iterator[Mistake]:
        """Adds mistakes in the scheduler's config."""
        yield from super().check()
        if config := self.scheduler_config():
            yield from self.check_scheduler(config, FLOWS)
            if self.pipeline_spacing == "trailing" and config.get("shift_terminal") and TRAINED not in config:
                yield Mistake(
                    "scheduler.shift_terminal",
                    "is set, which stretches the grid that the pipeline hands its scheduler, so that no grid of 2 S "
                    "steps would have the times of S; to use the network without it: --set "
                    "model.scheduler.shift_terminal=0",
                )

    def has_grid(self, spacing: str, start: int | str) -> bool:
        """Not "karras": a flow begins at pure noise, where σ/α = ∞."""
        return "karras" not in spacing

    def read_scheduler(self, length: int | None = None) -> None:
        """Set `path` and `prediction` from `scheduler`, for images of `length` tokens if the shift is dynamic."""
        self.path = read_path(self.scheduler, self.pipeline_spacing, length)
        self.prediction = "flow"

    solvers: ClassVar[tuple[str, ...]] = tuple(SOLVERS)

    def solver(self, name: str, steps: int, path: NoisePath) -> Scheduler:
        """See `Model.solver`."""
        return make_solver(name, cast(FlowPath, path), steps)

    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """The scheduler for the trained grid, and its description for the model card."""
        path = cast(FlowPath, export.path)
        scheduler = make_scheduler(path, self.scheduler, export.steps, self.pipeline_spacing)
        if has_own(path.spacing):
            return scheduler, handed(export, "deterministic (Euler)", "sigmas", lambda times: times / path.times)
        return scheduler, describe(path, export.steps, self.pipeline_spacing)
