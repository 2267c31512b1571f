"""The metrics, computed from features in float64 on the CPU.

Shapes: n images, D features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torchmetrics.image.inception
import torchmetrics.image.kid
from pydantic import Field

from distillkit.errors import DistillkitError
from distillkit.interfaces import Features, FeatureStatistics, Metric

REAL = "the statistics of real images"


def frechet_distance(
    mean_a: torch.Tensor, covariance_a: torch.Tensor, mean_b: torch.Tensor, covariance_b: torch.Tensor
) -> float:
    """Squared Fréchet distance of two Gaussians with means [D] and covariances [D, D].

    ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½ (Heusel et al. 2017). The last trace is computed
    from Σ_a^½ Σ_b Σ_a^½, which has the same eigenvalues and is symmetric, so that they are real even if the covariances
    are singular because there are fewer images than features.
    """
    mean_a, covariance_a, mean_b, covariance_b = (
        tensor.double().cpu() for tensor in (mean_a, covariance_a, mean_b, covariance_b)
    )
    values, vectors = torch.linalg.eigh(covariance_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0)
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * product.sqrt().sum()
    return float(distance)


def kernel_distance(features: torch.Tensor, reference: torch.Tensor, subsets: int, subset_size: int) -> float:
    """Squared maximum mean discrepancy of features [n, D] and [m, D] (Bińkowski et al. 2018), kernel (xᵀy/D + 1)³.

    The mean over random subsets, which are always the same, of `subset_size` images each, or of all if there are fewer.
    """
    with _quiet(), _own_random_numbers():
        size = min(subset_size, len(features), len(reference))
        metric = torchmetrics.image.kid.KernelInceptionDistance(torch.nn.Identity(), subsets=subsets, subset_size=size)
        metric.update(reference.double().cpu(), real=True)
        metric.update(features.double().cpu(), real=False)
        mean, _ = metric.compute()
    return float(mean)


def inception_score(logits: torch.Tensor, splits: int) -> float:
    """exp of the mean KL divergence of p(class | image) from p(class), from logits [n, K] (Salimans et al. 2016).

    The mean over `splits` parts of the images, in a random order that is always the same.
    """
    with _quiet(), _own_random_numbers():
        metric = torchmetrics.image.inception.InceptionScore(torch.nn.Identity(), splits=splits)
        metric.update(logits.double().cpu())
        mean, _ = metric.compute()
    return float(mean)


def features_of_both(
    metric: Metric, samples: FeatureStatistics, reference: FeatureStatistics | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The features of samples [n, D] and of real images [m, D], for a metric that compares them one by one.

    Raises:
        DistillkitError: the reference keeps none.
    """
    reference = metric.required(reference, REAL)
    if reference.features is None:
        raise DistillkitError(
            f"metric.type: '{metric.name}' compares features one by one, and the reference keeps only their mean and "
            'covariance; set evaluation.reference = "data" and add a [data] table'
        )
    return metric.required(samples.features, "the features of each image"), reference.features


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Seed the global generator, with which torchmetrics shuffles, and restore it on exit."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence torchmetrics' warning about its buffers, and torch's about the unused deviation of a single split."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features in buffer", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"std\(\): degrees of freedom is <= 0", category=UserWarning)
        yield


class FrechetDistance(Metric):
    """Fréchet distance of Gaussians that are fitted to the features (Heusel et al. 2017). Lower is better."""

    name = "fid"
    default = True
    needs_reference = True

    def label(self, features: Features) -> str:
        """`fid` in Inception's features, else `fd` with their suffix."""
        return f"fd{features.metric_suffix}" if features.metric_suffix else "fid"

    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """The squared distance, 0 or more."""
        reference = self.required(reference, REAL)
        return frechet_distance(samples.mean, samples.covariance, reference.mean, reference.covariance)


class KernelDistance(Metric):
    """Kernel distance of the features (Bińkowski et al. 2018). Lower is better; unbiased, so it may fall below 0."""

    name = "kid"
    needs_reference = True

    class Options(Metric.Options):
        """
        Attributes:
            subsets: number of random subsets over which the distance is averaged.
            subset_size: images per subset, or all if there are fewer.
        """

        subsets: int = Field(100, ge=1)
        subset_size: int = Field(1000, ge=2)

    options: Options

    def label(self, features: Features) -> str:
        """`kid` in Inception's features, else `kd` with their suffix."""
        return f"kd{features.metric_suffix}" if features.metric_suffix else "kid"

    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """The squared distance.

        Raises:
            DistillkitError: the reference keeps no features.
        """
        features, real = features_of_both(self, samples, reference)
        return kernel_distance(features, real, self.options.subsets, self.options.subset_size)


class InceptionScore(Metric):
    """How confident a classifier is of each image, and how varied the classes are (Salimans et al. 2016)."""

    name = "inception-score"
    needs_reference = False
    needs_logits = True
    higher_is_better = True

    class Options(Metric.Options):
        """
        Attributes:
            splits: number of parts of the images over which the score is averaged.
        """

        splits: int = Field(10, ge=1)

    options: Options

    def label(self, features: Features) -> str:
        """`inception-score` in Inception's features, else `is` with their suffix."""
        return f"is{features.metric_suffix}" if features.metric_suffix else "inception-score"

    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """The score, 1 to the number of classes."""
        return inception_score(self.required(samples.logits, "class logits"), self.options.splits)


def spread_within(features: torch.Tensor, conditions: torch.Tensor) -> float:
    """The variance of features [n, D] around the mean of their condition [n], summed over D: unbiased, 0 or more.

    Half the mean squared distance of two images of one condition, if all conditions have as many images.
    """
    features = features.double().cpu()
    counts = conditions.bincount()
    sums = torch.zeros(len(counts), features.shape[1], dtype=torch.float64).index_add_(0, conditions, features)
    means = sums / counts.clamp(min=1).unsqueeze(1)
    return float((features - means[conditions]).square().sum() / (len(features) - int((counts > 0).sum())))


class Spread(Metric):
    """How much images of one class or prompt differ, in features. Falls where a student loses modes.

    Compare it with the teacher's in many steps (`evaluation.teacher_steps`), which it should keep.
    """

    name = "spread"
    needs_reference = False
    needs_conditions = True
    higher_is_better = True

    def label(self, features: Features) -> str:
        """Its name with the features' suffix."""
        return f"spread{features.metric_suffix}"

    def compute(self, samples: FeatureStatistics, reference: FeatureStatistics | None) -> float:
        """The variance of the features within a condition, summed over the features, 0 or more."""
        features = self.required(samples.features, "the features of each image")
        return spread_within(features, self.required(samples.conditions, "the condition of each image"))
