"""Progressive distillation against Salimans & Ho 2022, Algorithm 2, written out in float64."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from distillkit_data.datasets import Digits
from distillkit_data.noised_data import NoisedData
from distillkit_dsd.dsd import MergedSteps
from distillkit_losses.losses import XMse
from distillkit_pd.frozen_teacher import FrozenTeacher
from helpers.digits import distil
from torch import Tensor, nn

from distillkit.interfaces import Model, Stage
from distillkit.noise import Condition, CosinePath, NoisePath, PredictionType, Predictor, TablePath
from distillkit.training.step import DistillStep

BATCH = 256
BARS = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
B, A = np.arctan(np.exp(-10.0)), np.arctan(np.exp(10.0)) - np.arctan(np.exp(-10.0))


class Network(nn.Module):
    """A small network that is not linear in z and knows the time."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.mix = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.mix(z) + (t.to(z.dtype) / 500 - 1).view(-1, 1, 1, 1))


def call(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    output: Tensor = network(z, t)
    return output


class Pixels:
    """As much of a model as `noised-data` asks for: pictures are samples, and there are no classes."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def condition(self, labels: Tensor | None, count: int, guidance: Tensor | None) -> Condition:
        return Condition()


class Paper:
    """α, σ and x̂ of the paper's u in [0, 1], in float64. u = (t + 1)/T; on a table u·T' is rounded."""

    def __init__(self, continuous: bool, kind: PredictionType, start: int) -> None:
        self.continuous, self.kind, self.times = continuous, kind, start + 1

    def t(self, u: np.ndarray) -> np.ndarray:
        t = u * self.times - 1
        return t if self.continuous else np.round(t + 1) - 1

    def coefficients(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin of the angle for the cosine path, √ᾱ and √(1 − ᾱ) for the table; 1 and 0 at u = 0."""
        t = self.t(u)
        bar = np.cos(A * (t + 1) / 1000 + B) ** 2 if self.continuous else np.append(BARS, 1.0)[t.astype(int)]
        bar = np.where(u == 0, 1.0, bar).reshape(-1, 1, 1, 1)
        return np.sqrt(bar), np.sqrt(1 - bar)

    def x_hat(self, network: nn.Module, z: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Section 4: from x, from v (x̂ = αz − σv̂), or from ε (x̂ = (z − σε̂)/α)."""
        with torch.no_grad():
            output = network(torch.from_numpy(z), torch.from_numpy(self.t(u))).numpy()
        alpha, sigma = self.coefficients(u)
        if self.kind == "sample":
            return output
        return alpha * z - sigma * output if self.kind == "v_prediction" else (z - sigma * output) / alpha

    def loss(
        self, student: nn.Module, teacher: nn.Module, x: np.ndarray, eps: np.ndarray, i: np.ndarray, n: int
    ) -> float:
        """The body of Algorithm 2's inner loop, with the truncated-SNR weight of equation 9."""
        t = i / n
        middle, end = t - 0.5 / n, (i - 1) / n
        (a, s), (a1, s1), (a2, s2) = (self.coefficients(u) for u in (t, middle, end))
        z = a * x + s * eps
        first = self.x_hat(teacher, z, t)
        z1 = a1 * first + s1 / s * (z - a * first)
        second = self.x_hat(teacher, z1, middle)
        z2 = a2 * second + s2 / s1 * (z1 - a1 * second)
        target = (z2 - s2 / s * z) / (a2 - s2 / s * a)
        # Their code has the last step's case apart: where i = 1, the target is the teacher's second x̂.
        target = np.where((i == 1).reshape(-1, 1, 1, 1), second, target)
        weight = np.maximum((a / s) ** 2, 1)
        return float((weight * (target - self.x_hat(student, z, t)) ** 2).mean())


def path_of(continuous: bool, start: int) -> NoisePath:
    if continuous:
        return CosinePath(1000, (-20.0, 20.0), start=start)
    return TablePath(torch.from_numpy(BARS), start=start)


@pytest.mark.parametrize("n", [1, 3, 16])
@pytest.mark.parametrize("kind", ["sample", "v_prediction", "epsilon"])
@pytest.mark.parametrize("continuous", [True, False], ids=["continuous", "discrete"])
def test_algorithm_2(continuous: bool, kind: PredictionType, n: int) -> None:
    """`noised-data`, a frozen teacher and `merged-steps`: a student of n steps taught by one of 2n."""
    # An ε-network begins where σ/α is bearable, the others at pure noise.
    start = 831 if kind == "epsilon" else 999
    path, paper = path_of(continuous, start), Paper(continuous, kind, start)
    data, source = Digits(Digits.Options()), NoisedData(NoisedData.Options(batch=BATCH))
    data.setup()
    model: Model = Pixels()  # type: ignore[assignment]
    source.setup(model, data)
    source.start_stage(Stage(2 * n, 1, 2), path)
    jumps = source.draw(torch.Generator().manual_seed(n))
    assert jumps.data is not None
    assert jumps.noise is not None

    # t = i/n with i ~ Cat[1, …, n], and the teacher's two steps of 0.5/n.
    i = np.round((jumps.times[0].numpy() + 1) / paper.times * n)
    assert set(i) == set(range(1, n + 1))
    for row, u in zip(jumps.times, (i / n, i / n - 0.5 / n, (i - 1) / n), strict=True):
        np.testing.assert_allclose(row, paper.t(u), rtol=0, atol=1e-9)

    student = Predictor(Network(0), path, kind, call)
    teacher = FrozenTeacher(FrozenTeacher.Options())
    teacher.setup(student)
    frozen = copy.deepcopy(student.network).double()
    student.network.load_state_dict(Network(1).state_dict())
    update = DistillStep(
        student, teacher, MergedSteps(MergedSteps.Options()), [XMse(XMse.Options(weighting="truncated-snr"))], path, 1
    )
    loss, aim, *_ = update(jumps)
    assert aim is not None
    x, eps = jumps.data.double().numpy(), jumps.noise.double().numpy()
    expected = paper.loss(copy.deepcopy(student.network).double(), frozen, x, eps, i, n)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    # σ_s = 0: where the jump ends at clean data it lands on the target itself.
    last = torch.from_numpy(i == 1)
    assert torch.equal(aim.x0[last], aim.z_next[last])


def test_learning_rate_falls_to_0_in_every_halving(tmp_path: Path) -> None:
    """As Salimans & Ho's: linearly, and anew with each student; the run's own cosine is the paper's."""
    options = ["run.updates=12", "schedule.start=8", "source.batch=2", "optimizer.learning_rate=1e-4"]
    options += ["optimizer.final_learning_rate=0.0", "optimizer.shape='linear'", "optimizer.decay='stage'"]
    run = distil(tmp_path, "pd", *options)
    rates = [[line["learning_rate"] for line in lines] for _, lines in groupby(run.journal, lambda line: line["stage"])]
    assert rates == [pytest.approx([1e-4, 0.75e-4, 0.5e-4, 0.25e-4])] * 3
