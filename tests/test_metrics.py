"""Metrics against independent computations in numpy, and the feature networks behind them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import scipy.linalg
import torch
from distillkit_metrics.features import FILE, Inception, Pixels
from distillkit_metrics.manifolds import Precision, Recall
from distillkit_metrics.metrics import (
    FrechetDistance,
    InceptionScore,
    KernelDistance,
    Spread,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from distillkit.component import Component
from distillkit.errors import DistillkitError
from distillkit.interfaces import Features, FeatureStatistics, Metric

Part = TypeVar("Part", bound=Component)


def make(part: type[Part], **options: object) -> Part:
    return part(part.Options(**options))


def features(count: int, size: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(size, size, generator=generator)
    return torch.randn(count, size, generator=generator) @ mix + shift


def test_statistics_equal_numpy() -> None:
    values = features(9000, 5, 0, shift=30.0)
    statistics = FeatureStatistics.of(values, None, "0")
    exact = values.double().numpy()
    np.testing.assert_allclose(statistics.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.covariance, np.cov(exact, rowvar=False), rtol=1e-9)
    assert statistics.count == 9000


def test_frechet_distance_equals_scipy_and_torchmetrics() -> None:
    one, two = features(300, 12, 1), features(200, 12, 2, shift=0.5)
    a, b = FeatureStatistics.of(one, None, "a"), FeatureStatistics.of(two, None, "b")
    ours = make(FrechetDistance).compute(a, b)

    root = scipy.linalg.sqrtm(a.covariance.numpy() @ b.covariance.numpy())
    gap = (a.mean - b.mean).numpy()
    exact = gap @ gap + np.trace(a.covariance.numpy() + b.covariance.numpy() - 2 * root.real)
    assert ours == pytest.approx(exact, rel=1e-9)

    module = nn.Identity()
    module.num_features = 12  # type: ignore[assignment]
    theirs = FrechetInceptionDistance(module)
    theirs.update(two.double(), real=True)
    theirs.update(one.double(), real=False)
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-9)


def test_frechet_distance_of_fewer_images_than_features() -> None:
    a = FeatureStatistics.of(features(10, 40, 1), None, "a")
    assert frechet_distance(a.mean, a.covariance, a.mean, a.covariance) == pytest.approx(0, abs=1e-4)
    zero = torch.zeros(40, 40)
    point = frechet_distance(a.mean, a.covariance, a.mean + 2, zero)
    assert point == pytest.approx(4 * 40 + a.covariance.trace().item())


def test_kernel_distance_equals_its_formula() -> None:
    x, y = features(60, 8, 3), features(60, 8, 4, shift=0.3)
    p, q = x.double().numpy(), y.double().numpy()
    within_p, within_q, across = ((a @ b.T / 8 + 1) ** 3 for a, b in ((p, p), (q, q), (p, q)))
    pairs = 60 * 59
    exact = (within_p.sum() - np.trace(within_p)) / pairs + (within_q.sum() - np.trace(within_q)) / pairs
    exact -= 2 * across.mean()
    # Subsets of all images are all the same.
    assert kernel_distance(x, y, subsets=3, subset_size=1000) == pytest.approx(exact, rel=1e-9)


def test_inception_score_equals_its_formula() -> None:
    logits = 3 * features(50, 6, 5)
    probabilities = scipy.special.softmax(logits.double().numpy(), axis=1)
    ratio = np.log(probabilities) - np.log(probabilities.mean(0))
    exact = np.exp((probabilities * ratio).sum(1).mean())
    assert inception_score(logits, splits=1) == pytest.approx(exact, rel=1e-9)


def test_metrics_that_shuffle_always_shuffle_alike_and_leave_the_global_state() -> None:
    x, y, logits = features(60, 4, 6), features(60, 4, 7), features(60, 4, 8)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = kernel_distance(x, y, subsets=2, subset_size=20), inception_score(logits, splits=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert (kernel_distance(x, y, subsets=2, subset_size=20), inception_score(logits, splits=3)) == first


@pytest.mark.parametrize(
    ("part", "lacking"),
    [
        (FrechetDistance, "the statistics of real images"),
        (KernelDistance, "the statistics of real images"),
        (Recall, "the statistics of real images"),
        (InceptionScore, "class logits"),
    ],
)
def test_what_a_metric_lacks_is_named(part: type[Metric], lacking: str) -> None:
    samples = FeatureStatistics.of(features(4, 3, 0), None, "")
    with pytest.raises(DistillkitError, match=f"^'{part.name}' needs {lacking}, and was given none$"):
        make(part).compute(samples, None)


@pytest.mark.parametrize("part", [KernelDistance, Precision])
def test_what_compares_one_by_one_needs_a_reference_with_features(part: type[Metric]) -> None:
    samples = FeatureStatistics.of(features(10, 4, 1), None, "a")
    bare = FeatureStatistics(samples.mean, samples.covariance, 10, None, None, "b")
    with pytest.raises(DistillkitError, match=rf"'{part.name}' compares features one by one.*reference = \"data\""):
        make(part).compute(samples, bare)


def covered(features: Tensor, manifold: Tensor, k: int) -> float:
    """The definition of Kynkäänniemi et al. 2019 (equations 1 and 2), one feature after the other."""
    found, others = features.double().numpy(), manifold.double().numpy()
    radii = [
        np.sort([np.linalg.norm(a - b) for j, b in enumerate(others) if j != i])[k - 1] for i, a in enumerate(others)
    ]
    return float(np.mean([any(np.linalg.norm(a - b) <= r for b, r in zip(others, radii, strict=True)) for a in found]))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_and_recall_equal_their_definition(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillkit_metrics.manifolds.ROWS", 16)
    samples, real = features(50, 6, 1) + 100, features(70, 6, 2) + 101.5
    a, b = FeatureStatistics.of(samples, None, "a"), FeatureStatistics.of(real, None, "b")
    precision, recall = make(Precision, k=k).compute(a, b), make(Recall, k=k).compute(a, b)
    assert (precision, recall) == (covered(samples, real, k), covered(real, samples, k))
    assert 0 < precision < 1
    assert 0 < recall < 1


def test_samples_of_one_mode_have_all_the_precision_and_half_the_recall() -> None:
    one = features(60, 4, 1)
    real = torch.cat([one, features(60, 4, 2) + 1000])
    samples, both = FeatureStatistics.of(one, None, "a"), FeatureStatistics.of(real, None, "b")
    assert [make(part).compute(samples, both) for part in (Precision, Recall)] == [1, 0.5]
    assert [make(part).compute(both, both) for part in (Precision, Recall)] == [1, 1]


def test_spread_is_the_variance_within_the_conditions() -> None:
    found = features(31, 5, 3) + 7
    conditions = torch.arange(31) % 4
    groups = [found[conditions == i].double().numpy() for i in range(4)]
    wanted = sum(((group - group.mean(0)) ** 2).sum() for group in groups) / (31 - 4)
    samples = replace(FeatureStatistics.of(found, None, "a"), conditions=conditions)
    assert make(Spread).compute(samples, None) == pytest.approx(wanted)
    # One image of each class again and again, however much classes differ.
    again = replace(FeatureStatistics.of(found[conditions], None, "a"), conditions=conditions)
    assert make(Spread).compute(again, None) == pytest.approx(0)
    # Of equal groups, half the mean squared distance of two images.
    equal = replace(samples, conditions=torch.zeros(31, dtype=torch.int64))
    distances = np.mean(
        [((a - b) ** 2).sum() for i, a in enumerate(found.double().numpy()) for b in found.double().numpy()[:i]]
    )
    assert make(Spread).compute(equal, None) == pytest.approx(distances / 2)


def test_neighbours_need_images() -> None:
    few, many = (FeatureStatistics.of(features(count, 4, 1), None, "a") for count in (3, 9))
    with pytest.raises(DistillkitError, match=r"^metric\.k: 3 neighbours of an image need 4 images, and there are 3"):
        make(Precision).compute(few, many)


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (Inception, ["fid", "kid", "inception-score", "precision"]),
        (Pixels, ["fd-pixels", "kd-pixels", "is-pixels", "precision-pixels"]),
    ],
)
def test_scores_bear_inceptions_names_in_its_features_only(part: type[Features], names: list[str]) -> None:
    metrics = [make(FrechetDistance), make(KernelDistance), make(InceptionScore), make(Precision)]
    assert [metric.label(make(part)) for metric in metrics] == names


def test_pixels_are_features() -> None:
    images = torch.tensor([0, 51, 255, 204], dtype=torch.uint8).view(1, 1, 2, 2)
    values, logits = make(Pixels).extract(images)
    torch.testing.assert_close(values, torch.tensor([[-1.0, -0.6, 1.0, 0.6]]))
    assert logits is None


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of Inception's architecture."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Random(FeatureExtractorInceptionV3):
        def load_state_dict(self, state: object) -> None:
            """Keep the weights drawn at random."""

    path = tmp_path_factory.mktemp("inception") / FILE
    torch.save({}, path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Random("random", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(network.state_dict(), path)
    return path


def test_inception_is_torch_fidelitys(inception_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    folder = inception_weights.parent / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / FILE).symlink_to(inception_weights)
    monkeypatch.setenv("TORCH_HOME", str(inception_weights.parent))
    inception = make(Inception)
    assert list(inception.check()) == []
    inception.setup(torch.device("cpu"))
    grey = torch.randint(256, (2, 1, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found, logits = inception.extract(grey)

    network = FeatureExtractorInceptionV3("fid", ["2048"], feature_extractor_weights_path=str(inception_weights))
    torch.testing.assert_close(found, network(grey.repeat(1, 3, 1, 1))[0])
    assert found.shape == (2, 2048)
    assert logits is not None
    assert logits.shape == (2, 1008)
    assert len(inception.hash) == 8


def test_missing_inception_weights_are_named(tmp_path: Path) -> None:
    inception = make(Inception, weights=tmp_path / "none.pth")
    (mistake,) = inception.check()
    assert mistake.key == "weights"
    assert mistake.message.startswith(f"there is no file {tmp_path}/none.pth; download https://github.com/toshas/")
    with pytest.raises(DistillkitError, match=r"^features\.weights: there is no file .*none\.pth; download "):
        inception.setup(torch.device("cpu"))


def test_a_file_that_is_not_inceptions_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    for name in ("evil.pth", "other.pth"):
        with pytest.raises(
            DistillkitError, match=rf"^features\.weights: .*{name} does not contain Inception's weights"
        ):
            make(Inception, weights=tmp_path / name).setup(torch.device("cpu"))
    assert not (tmp_path / "ran").exists()
