"""Pictures as metrics and people see them: the same noise and classes for every model, rounded by one rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import torch

from distillkit import distributed
from distillkit.config import EvaluationTable
from distillkit.interfaces import Model, Sampler
from distillkit.noise import Predictor
from distillkit.sampling import noise_for, sample, sample_consistency

ROUNDING = "round((x + 1) * 127.5)"

Which = Literal["teacher", "student"]


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images in [−1, 1] of any shape -> 0 … 255, halves to even; what lies outside is clamped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


class Pictures:
    """Draws the pictures 0, 1, 2, … of a series: i is always the noise (seed, i) and the class i modulo classes.

    Args:
        evaluation: seed, guidance, sampler and batch.
        model: whose samples they are; loaded.
        device: where its predictors are.
        autocast: the precision in which networks are evaluated.
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

    def sampler(self, which: Which) -> Sampler:
        """How pictures are drawn: the undistilled teacher's by DDIM, a student's as the config says."""
        return "ddim" if which == "teacher" else self._evaluation.sampler

    def draw(
        self,
        predictor: Predictor,
        steps: int,
        indices: Sequence[int],
        labels: Sequence[int] | None = None,
        which: Which = "student",
    ) -> torch.Tensor:
        """The pictures `indices`, in `steps` steps, in one batch: uint8 [len(indices), C, H, W] on the device.

        Moves neither the global random state nor the predictor's count of evaluations. `labels` are classes to take
        instead of i modulo classes, `which` the model that the predictor is.

        Raises:
            GridError: the path has no grid of so many steps.
        """
        count, guidance = len(indices), self._evaluation.guidance
        classes = self._model.spec.classes
        if labels is None and classes is not None:
            labels = [i % classes for i in indices]
        condition = self._model.condition(
            None if labels is None else torch.tensor(labels),
            count,
            None if guidance == 1 else torch.full((count,), guidance),
        ).map(lambda tensor: tensor.to(self._device))
        told = self._model.spec.guidance_input
        if which == "teacher" and told is not None and told.new:
            condition = condition.mixed()
        with torch.no_grad(), _aside(predictor), self._autocast():
            if self.sampler(which) == "consistency":
                samples = sample_consistency(predictor, lambda step: self._noise(indices, step), condition, steps)
            else:
                samples = sample(predictor, self._noise(indices, 0), condition, steps)
            images = self._model.decode(samples)
        return to_uint8(images.float())

    def _noise(self, indices: Sequence[int], step: int) -> torch.Tensor:
        return noise_for(self._evaluation.seed, indices, self._model.spec.sample_shape, step).to(self._device)

    def batches(self, predictor: Predictor, steps: int, count: int, which: Which = "student") -> Iterator[torch.Tensor]:
        """This process's part of the first `count` pictures, `evaluation.batch` at a time."""
        # Whole batches, so that no picture depends on how many processes there are.
        for start in distributed.split_between_processes(range(0, count, self._evaluation.batch)):
            indices = range(start, min(start + self._evaluation.batch, count))
            yield self.draw(predictor, steps, indices, which=which)

    def first(
        self, predictor: Predictor, steps: int, count: int | None = None, which: Which = "student"
    ) -> torch.Tensor:
        """The first `count` pictures (`evaluation.grid` by default), on the CPU: a row of a sample sheet."""
        wanted = self._evaluation.grid if count is None else count
        batches = [distributed.all_gather(batch.cpu()) for batch in self.batches(predictor, steps, wanted, which)]
        return torch.cat(batches)[:wanted]


@contextmanager
def _aside(predictor: Predictor) -> Iterator[None]:
    """Inside, the predictor is in evaluation mode; afterwards it is as it was, and so is its count of evaluations."""
    modes: dict[torch.nn.Module, bool] = {module: module.training for module in predictor.network.modules()}
    count = predictor.evaluations.count
    predictor.network.eval()
    try:
        yield
    finally:
        predictor.evaluations.count = count
        for module, mode in modes.items():
            module.training = mode
