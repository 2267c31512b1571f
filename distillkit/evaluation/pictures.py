"""Generates sample images for scores and for viewing: the same noise, classes and rounding for every model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch

from distillkit import distributed
from distillkit.config import EvaluationTable
from distillkit.interfaces import Model
from distillkit.noise import NoisePath, Predictor
from distillkit.registry import wrong
from distillkit.sampling import noise_for, sample, sample_consistency, sample_with

ROUNDING = "round((x + 1) * 127.5)"

Which = Literal["teacher", "student"]


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Convert images in [−1, 1], of any shape, to uint8. Rounds half to even, and clamps values outside."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def solver_path(path: NoisePath, which: Which) -> NoisePath:
    """The noise path for a solver: the undistilled teacher's begins at the noise, wherever the student's grids do."""
    return path.teacher_grid(path.spacing) if which == "teacher" else path


class Pictures:
    """Generates images 0, 1, 2, …: image i has the noise of (seed, i), and the class i modulo the number of classes.

    Args:
        evaluation: seed, guidance, sampler and batch size.
        model: the loaded model.
        device: the device of the predictors.
        autocast: a context that sets the precision of the predictors.
    """

    def __init__(
        self,
        evaluation: EvaluationTable,
        model: Model,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._evaluation = evaluation
        self._model = model
        self._device = device
        self._autocast = autocast

    def sampler(self, which: Which, solver: str | None = None) -> str:
        """The sampler: by default DDIM for the undistilled teacher, and the config's for a student."""
        return solver or ("ddim" if which == "teacher" else self._evaluation.sampler)

    def guidance(self, scale: float | None) -> float:
        """The guidance scale s: the config's, unless there is another."""
        return self._evaluation.guidance if scale is None else scale

    def draw(
        self,
        predictor: Predictor,
        steps: int,
        indices: Sequence[int],
        labels: Sequence[int] | None = None,
        which: Which = "student",
        solver: str | None = None,
        guidance: float | None = None,
    ) -> torch.Tensor:
        """Generate images in one batch: uint8 [len(indices), C, H, W] on the device.

        Does not change the global random state or the predictor's count of evaluations.

        Args:
            predictor: the predictor to sample from.
            steps: number of sampling steps.
            indices: the numbers of the images.
            labels: their classes; by default i modulo the number of classes.
            which: the teacher is sampled with DDIM, a student with the config's sampler.
            solver: another sampler: "ddim", or one of the model's `ModelSpec.solvers`.
            guidance: another guidance scale than the config's.

        Raises:
            GridError: the path has no grid of `steps` steps.
        """
        count, guidance = len(indices), self.guidance(guidance)
        classes = self._model.spec.classes
        if labels is None and classes is not None:
            labels = [i % classes for i in indices]
        scales = None if guidance == 1 else torch.full((count,), guidance)
        taken = self._model.spec.guidance_input
        # Of an input that is new, the teacher is told any scale that it takes, and is guided by mixing.
        mixes = which == "teacher" and taken is not None and taken.new
        condition = self._model.condition(
            None if labels is None else torch.tensor(labels),
            count,
            torch.full((count,), taken.low) if taken is not None and mixes else scales,
        )
        condition = (replace(condition, guidance=scales) if mixes else condition).to(self._device)
        with torch.no_grad(), _aside(predictor), self._autocast():
            sampler, noise = self.sampler(which, solver), partial(self._noise, indices)
            if sampler == "consistency":
                samples = sample_consistency(predictor, noise, condition, steps)
            elif sampler == "ddim":
                samples = sample(predictor, noise(0), condition, steps)
            else:
                scheduler = self._model.solver(sampler, steps, solver_path(predictor.path, which))
                if (times := len(scheduler.timesteps)) != steps:
                    raise wrong(self._model, "solver()", f'"{sampler}" with {times} times', f"{steps}, one a step")
                samples = sample_with(predictor, scheduler, noise(0), condition)
            images = self._model.decode(samples)
        return to_uint8(images.float())

    def _noise(self, indices: Sequence[int], step: int) -> torch.Tensor:
        return noise_for(self._evaluation.seed, indices, self._model.spec.sample_shape, step).to(self._device)

    def batches(
        self,
        predictor: Predictor,
        steps: int,
        count: int,
        which: Which = "student",
        solver: str | None = None,
        guidance: float | None = None,
    ) -> Iterator[torch.Tensor]:
        """This process's shard of the first `count` images, in batches of `evaluation.batch`."""
        # Processes take whole batches, so that no image depends on the number of processes.
        for start in distributed.split_between_processes(range(0, count, self._evaluation.batch)):
            indices = range(start, min(start + self._evaluation.batch, count))
            yield self.draw(predictor, steps, indices, which=which, solver=solver, guidance=guidance)

    def first(
        self,
        predictor: Predictor,
        steps: int,
        count: int | None = None,
        which: Which = "student",
        solver: str | None = None,
        guidance: float | None = None,
    ) -> torch.Tensor:
        """The first `count` images (`evaluation.grid` by default), on the CPU: one row of a grid of samples."""
        wanted = self._evaluation.grid if count is None else count
        batches = self.batches(predictor, steps, wanted, which, solver, guidance)
        return torch.cat([distributed.all_gather(batch.cpu()) for batch in batches])[:wanted]


@contextmanager
def _aside(predictor: Predictor) -> Iterator[None]:
    """Put the predictor in evaluation mode; on exit, restore its mode and its count of evaluations."""
    modes: dict[torch.nn.Module, bool] = {module: module.training for module in predictor.network.modules()}
    count = predictor.evaluations.count
    predictor.network.eval()
    try:
        yield
    finally:
        predictor.evaluations.count = count
        for module, mode in modes.items():
            module.training = mode
