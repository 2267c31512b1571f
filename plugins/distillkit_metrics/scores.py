"""The numbers themselves, from features in float64 on the CPU.

Shapes: n images, D features, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torchmetrics.image.inception
import torchmetrics.image.kid


def frechet_distance(
    mean_a: torch.Tensor, covariance_a: torch.Tensor, mean_b: torch.Tensor, covariance_b: torch.Tensor
) -> float:
    """Squared Fréchet distance of two Gaussians with means [D] and covariances [D, D].

    ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 tr (Σ_a Σ_b)^½ (Heusel et al. 2017). The last trace is taken from
    Σ_a^½ Σ_b Σ_a^½, which has the same eigenvalues and is symmetric: real also where fewer images than features
    make the covariances singular.
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

    The mean over random subsets (always the same ones), each of `subset_size` images, or of all if there are fewer.
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


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """torchmetrics shuffles with the global generator: here it starts from a seed, and afterwards is as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """torchmetrics warns of its own buffers, and torch of the deviation, not used here, of a single split."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*will save all extracted features in buffer", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"std\(\): degrees of freedom is <= 0", category=UserWarning)
        yield
