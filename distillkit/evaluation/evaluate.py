"""Scores a model's samples. Images and their features are computed once, for all metrics."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from numbers import Real
from typing import Any

import torch

from distillkit import distributed
from distillkit.config import Scoring
from distillkit.errors import DistillkitError
from distillkit.evaluation.pictures import ROUNDING, Pictures, Which, solver_path, to_uint8
from distillkit.interfaces import Data, Features, FeatureStatistics, Metric, Model
from distillkit.noise import Predictor, TablePath
from distillkit.registry import check_tensor, checked, described, whole, wrong


class Evaluator:
    """Scores predictors of one model, with the same noise and the same reference for all.

    Args:
        settings: how to score. If the reference is computed from its data, they have been set up.
        model: the loaded model.
        device: the device of the predictors and of the feature network.
        autocast: a context that sets the precision of the predictors; features are computed in float32.
    """

    def __init__(
        self,
        settings: Scoring,
        model: Model,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._settings = settings
        self._model = model
        self._path = model.spec.with_grid(settings.grid.spacing, settings.grid.start).path
        self._device = device
        self._autocast = autocast
        self.pictures = Pictures(settings.evaluation, model, device, autocast)
        self.metrics: dict[str, Metric] = {}
        self.reference: FeatureStatistics | None = None
        self._features = settings.features
        if self._features is not None and settings.metrics:
            self._features.setup(device)
            digits = self._features.hash
            fits = isinstance(digits, str) and re.fullmatch("[0-9a-f]{8}", digits) is not None
            checked(self._features, "hash", digits, fits, "eight hexadecimal digits")
            self.metrics = {metric.label(self._features): metric for metric in settings.metrics}
            self._check_conditions()
            if any(metric.needs_reference for metric in settings.metrics):
                self.reference = self._find_reference(self._features)

    def _check_conditions(self) -> None:
        classes, evaluation = self._model.spec.classes or 1, self._settings.evaluation
        counts = {"samples": evaluation.samples} | (
            {"every_samples": evaluation.every_samples} if evaluation.every else {}
        )
        for metric in self.metrics.values():
            for key, count in counts.items():
                if metric.needs_conditions and count <= classes:
                    raise DistillkitError(
                        f"evaluation.{key}: the metric '{metric.name}' compares samples of one class or prompt, and "
                        f"{count} samples are at most one of each of {classes}; take more, or remove the metric"
                    )

    def _find_reference(self, features: Features) -> FeatureStatistics:
        wanted, data = self._settings.evaluation.reference, self._settings.data
        bundled = None if wanted == "data" else features.bundled_reference()
        if bundled is not None:
            return _bundled(features, bundled)
        if wanted != "data" and features.has_bundled_reference:
            raise wrong(features, "bundled_reference()", None, "statistics, as has_bundled_reference says")
        data = features.required(data, "real images to compare with: a reference of its own, or a [data] table")
        data.check_shape(self._model)
        return self._statistics(features, _real_pictures(data, self._settings.evaluation.batch), len(data))

    def score(
        self,
        predictor: Predictor,
        steps: int,
        samples: int,
        which: Which = "student",
        on_batch: Callable[[int], None] | None = None,
        solver: str | None = None,
        guidance: float | None = None,
    ) -> dict[str, float]:
        """Score the first `samples` images. Returns metric label -> value, and no entries without metrics.

        Computes no gradient. Does not change the global random state, the predictor's mode or its count of evaluations.

        Args:
            predictor: the predictor to sample from.
            steps: number of sampling steps.
            samples: number of images.
            which: the teacher is sampled with DDIM, a student with the config's sampler.
            on_batch: called after each batch with its number of images.
            solver: another sampler: "ddim", or one of the model's `ModelSpec.solvers`.
            guidance: another guidance scale than the config's.

        Raises:
            GridError: the path has no grid of `steps` steps.
        """
        if self._features is None or not self.metrics:
            return {}
        batches = self.pictures.batches(predictor, steps, samples, which, solver, guidance)
        statistics = self._statistics(self._features, batches, samples, on_batch)
        conditions = torch.arange(samples) % (self._model.spec.classes or 1)
        statistics = replace(statistics, conditions=conditions)
        reference = self.reference
        if reference is not None and reference.mean.shape != statistics.mean.shape:
            came = f"features of {len(reference.mean)} numbers"
            expected = f"{len(statistics.mean)}, as extract() gives"
            raise wrong(self._features, "bundled_reference()", came, expected)
        scores = {
            label: _number(metric, metric.compute(statistics, reference)) for label, metric in self.metrics.items()
        }
        # All processes decide on these scores, so they must be bit-identical.
        return distributed.broadcast(scores)

    def _statistics(
        self,
        network: Features,
        batches: Iterable[torch.Tensor],
        count: int,
        on_batch: Callable[[int], None] | None = None,
    ) -> FeatureStatistics:
        """Features of `count` uint8 images [B, C, H, W], gathered on the CPU in the order of the images."""
        features, logits, digest = [], [], hashlib.sha256()
        left = count
        for batch in batches:
            pictures = distributed.all_gather(batch.cpu())[:left]
            digest.update(pictures.numpy().tobytes())
            with torch.no_grad():
                given = network.extract(batch.to(self._device))
            vectors, classes = _checked(network, given, len(batch))
            features.append(distributed.all_gather(vectors)[:left])
            if classes is not None:
                logits.append(distributed.all_gather(classes)[:left])
            left -= len(pictures)
            if on_batch is not None:
                on_batch(len(pictures))
        return FeatureStatistics.of(torch.cat(features), torch.cat(logits) if logits else None, digest.hexdigest()[:8])

    def protocol(
        self,
        metric: str,
        samples: int,
        which: Which = "student",
        solver: str | None = None,
        guidance: float | None = None,
    ) -> str:
        """One line with everything that a score depends on besides model and steps. Scores with equal lines compare.

        Args:
            metric: the metric's label.
            samples: number of images per score.
            which, solver, guidance: what is scored, as for `score`; a sampler other than DDIM is part of the line.
        """
        evaluation, features, how = self._settings.evaluation, self._features, self.metrics[metric]
        sampler = self.pictures.sampler(which, solver)
        path = self._path if sampler in ("ddim", "consistency") else solver_path(self._path, which)
        with self._autocast():
            kind = self._device.type
            precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        start = f" from {path.start}" if isinstance(path, TablePath) else ""
        options = " ".join(f"{key} {value}" for key, value in how.options.model_dump().items())
        parts = [
            f"{how.name} {options}".strip(),
            *([f"{features.name} {features.hash}"] if features else []),
            ROUNDING,
            *([f"{self.reference.count} real {self.reference.hash}"] if how.needs_reference and self.reference else []),
            f"{samples} samples",
            f"{self._settings.grid.spacing}{start}",
            *([] if sampler == "ddim" else [f"sampler {sampler}"]),
            f"seed {evaluation.seed}",
            f"guidance {self.pictures.guidance(guidance):g}",
            str(precision).removeprefix("torch."),
        ]
        return "; ".join(parts)

    def rows(
        self,
        which: Which,
        steps: int,
        samples: int,
        scores: Mapping[str, float],
        solver: str | None = None,
        guidance: float | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of scores.json for the scores that `score` returned."""
        return [
            {
                "model": which,
                **({} if solver is None else {"solver": solver}),
                **({} if guidance is None else {"guidance": guidance}),
                "steps": steps,
                "metric": label,
                "value": value,
                "samples": samples,
                "protocol": self.protocol(label, samples, which, solver, guidance),
            }
            for label, value in scores.items()
        ]


def _bundled(features: Features, statistics: Any) -> FeatureStatistics:
    """The statistics that a feature network gave as its reference."""
    what = "bundled_reference()"
    if not isinstance(statistics, FeatureStatistics):
        raise wrong(features, what, described(statistics), "FeatureStatistics, or None")
    mean, covariance, some = statistics.mean, statistics.covariance, statistics.features
    check_tensor(features, what, mean, (None,), "the mean", torch.float64, finite=True)
    shape = (len(mean), len(mean))
    check_tensor(features, what, covariance, shape, "the covariance", torch.float64, finite=True)
    if some is not None:
        check_tensor(features, what, some, (None, len(mean)), "the features", finite=True)
    whole(features, f"{what}.count", statistics.count, "images", 2 if some is None else max(2, len(some)))
    text = statistics.hash
    checked(features, f"{what}.hash", text, isinstance(text, str) and text != "", "text that identifies the images")
    return statistics


def _checked(network: Features, given: Any, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The features of `count` images, and their logits if the network has any: float32, on the CPU."""
    if not (isinstance(given, tuple) and len(given) == 2):
        raise wrong(network, "extract()", described(given), "a pair: features, and logits or None")
    for value, meaning in zip(given, ("features", "class logits"), strict=True):
        if meaning == "features" or network.has_logits:
            check_tensor(network, "extract()", value, (count, None), f"{meaning} of each image", finite=True)
    vectors, logits = given
    return vectors.float().cpu(), logits.float().cpu() if network.has_logits else None


def _number(metric: Metric, value: Any) -> float:
    """A score as a number of Python's, which scores.json can hold."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    if not isinstance(value, Real):  # as all of numpy's scalars are that are no complex numbers
        raise wrong(metric, "compute()", described(value), "a number")
    return float(value)


def _real_pictures(data: Data, batch: int) -> Iterator[torch.Tensor]:
    """This process's shard of a data set's images: uint8 [B, C, H, W]."""
    for indices in distributed.split_between_processes(torch.split(torch.arange(len(data)), batch)):
        images, _ = data.batch(indices)
        yield to_uint8(images)
