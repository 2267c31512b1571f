"""The Lagrangian target and the source of pure noise: against the formula, and against a flow that is known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from distillkit_anystep.lagrangian import Lagrangian
from distillkit_anystep.pure_noise import PureNoise
from helpers.digits import settings, started
from helpers.targets import ALPHA, ALPHA_BAR, PATH, SIGMA, frozen, told
from torch import Tensor, nn

from distillkit.errors import ConfigError
from distillkit.interfaces import JumpBatch, Stage
from distillkit.noise import Condition, CosinePath, EdmPath, FlowPath, NoisePath, PredictionType, Predictor, TablePath
from distillkit.training.loop import Position, updates


def target(student: Predictor, steps: int, path: NoisePath) -> Lagrangian:
    made = Lagrangian(Lagrangian.Options(stride=2))
    made.setup(student)
    made.start_stage(Stage(steps, 1, 2), path)
    return made


def jumps_of(path: NoisePath, steps: int, places: list[tuple[int, int]]) -> JumpBatch:
    """Jumps between two places of a grid each."""
    torch.manual_seed(3)
    grid, (begin, end) = path.grid(steps), torch.tensor(places).T
    times = grid[torch.stack([begin, (begin + end) // 2, end])]
    z = torch.randn(len(places), 1, 5, 5) * path.initial_scale
    return JumpBatch(z, times, Condition(), step_size=(end - begin) / steps)


@torch.no_grad()
def test_the_target_is_the_printed_one() -> None:
    """In float64, with α/σ itself in the place of its angle."""
    student, teacher, jumps = told(0), frozen(told(2)), jumps_of(PATH, 16, [(0, 4), (0, 15), (6, 9), (8, 16), (14, 16)])
    prediction = student(jumps.z, jumps.times[0], jumps.condition, jumps.step_size)
    found = target(student, 16, PATH).compute(jumps, prediction, teacher, PATH)
    grid = PATH.grid(16).tolist()

    def x0_of(seed: int, z: Tensor, t: int, size: float) -> Tensor:
        v = told(seed).network.double()(z, torch.tensor([float(t)]), torch.tensor([size], dtype=torch.float64))
        return ALPHA[t] * z - SIGMA[t] * v

    def landing(z: Tensor, x0: Tensor, t: int, s: int) -> Tensor:
        return SIGMA[s] / SIGMA[t] * z + (ALPHA[s] - SIGMA[s] / SIGMA[t] * ALPHA[t]) * x0

    assert jumps.step_size is not None
    for row, size in enumerate(jumps.step_size.tolist()):
        z, (t, s) = jumps.z[row : row + 1].double(), jumps.times[[0, -1], row].tolist()
        x0, place = x0_of(0, z, t, size), grid.index(s)
        shorter = x0_of(0, z, t, size - 1 / 16)
        if s == -1:
            expected = x0_of(2, landing(z, shorter, t, grid[15]), grid[15], size / 2)
        else:
            expected = x0_of(2, landing(z, x0, t, s), s, size / 2)
            angles = [np.arctan2(SIGMA[time], ALPHA[time]) for time in (grid[place - 1], grid[place + 1])]
            ratio = (ALPHA[s] / SIGMA[s] - ALPHA[t] / SIGMA[t]) * np.sin(np.arctan2(SIGMA[s], ALPHA[s])) ** 2
            expected = expected - ratio * (x0_of(0, z, t, size + 1 / 16) - shorter) / (angles[0] - angles[1])
        torch.testing.assert_close(found.x0[row : row + 1].double(), expected, rtol=0, atol=2e-5)
        ahead = landing(z, x0, t, s)
        torch.testing.assert_close(found.z_next[row : row + 1].double(), ahead, rtol=0, atol=2e-6)


MEAN, DEVIATION = 0.3, 0.5


class Exact(nn.Module):
    """What an ideal network says of data N(MEAN, DEVIATION²) in every pixel.

    Their noised states are normal too, and the flow takes a quantile of one time to the same quantile of another. The
    network says the x̂ with which a jump lands there, or x̂ itself, E[x | z], if it is not told how far it jumps.
    """

    def __init__(self, path: NoisePath, steps: int, kind: PredictionType, told: bool) -> None:
        super().__init__()
        self.path, self.grid, self.kind, self.told = path, path.grid(steps), kind, told
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, t: Tensor, step_size: Tensor) -> Tensor:
        z = z.double()
        alpha, sigma = (value.double() for value in self.path.alpha_sigma(t))
        spread = (alpha * DEVIATION) ** 2 + sigma**2
        x0 = MEAN + alpha * DEVIATION**2 / spread * (z - alpha * MEAN)
        if self.told:
            place = (self.grid.unsqueeze(1) - t).abs().argmin(0) + (step_size * (len(self.grid) - 1)).round().long()
            a, b = (value.double() for value in self.path.alpha_sigma(self.grid[place.clamp(max=len(self.grid) - 1)]))
            landing = a * MEAN + (((a * DEVIATION) ** 2 + b**2) / spread).sqrt() * (z - alpha * MEAN)
            x0 = (landing - b / sigma * z) / (a - b / sigma * alpha)
        eps = (z - alpha * x0) / sigma
        said = {"sample": x0, "epsilon": eps, "v_prediction": alpha * eps - sigma * x0, "flow": eps - x0}
        return said[self.kind]


def exact(path: NoisePath, steps: int, kind: PredictionType, told: bool) -> Predictor:
    def call(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = network(z, t, inputs["step_size"])
        return output

    return Predictor(Exact(path, steps, kind, told), path, kind, call, step_input=True)


WORDS = ("target.type=lagrangian", "schedule.steps=16")
TABLE = TablePath(torch.from_numpy(ALPHA_BAR), "angle")
COSINE = CosinePath(1000, (-10.0, 10.0), "angle")
FLOWS: list[tuple[NoisePath, PredictionType]] = [
    (TABLE, "v_prediction"),
    (TABLE, "epsilon"),
    (TABLE, "sample"),
    (COSINE, "v_prediction"),
    (FlowPath(), "flow"),
    (EdmPath(), "sample"),
]


@pytest.mark.parametrize(("path", "kind"), FLOWS, ids=lambda value: value if isinstance(value, str) else type(value))
@torch.no_grad()
def test_the_exact_flow_is_its_own_target(path: NoisePath, kind: PredictionType) -> None:
    """Up to the differences' error, which falls as the square of the grid's step, or slower if times are rounded."""
    errors = []
    for steps in (16, 64):
        places = [(0, 5), (0, 10), (4, 8), (2, 13), (9, 12), (0, 16), (8, 16)]
        jumps = jumps_of(path, steps, [(steps // 16 * begin, steps // 16 * end) for begin, end in places])
        student, teacher = exact(path, steps, kind, told=True), frozen(exact(path, steps, kind, told=False))
        prediction = student(jumps.z, jumps.times[0], jumps.condition, jumps.step_size)
        found = target(student, steps, path).compute(jumps, prediction, teacher, path)
        errors.append((found.x0 - prediction.x0).abs().flatten(1).amax(1))
    assert (errors[1] < errors[0] / (7 if path.grid(1).is_floating_point() else 4)).all()
    assert errors[1].median() < 1e-3


@pytest.mark.parametrize(
    "source", ["'trajectory', levels=[1, 2, 4]", "'noised-data', levels=[1, 4], times='uniform'", "'pure-noise'"]
)
def test_updates(tmp_path: Path, source: str) -> None:
    words = (*WORDS, f"source={{type={source}, batch=4}}", "run.updates=2")
    lines = list(updates(started(tmp_path, "shortcut", 16, *words, stride=4), Position(), print))
    assert [line.values["evaluations"] for line in lines] == [4] * 2
    assert all(line.scalars["made"] for line in lines)


def test_walks_in_jumps_of_any_length(tmp_path: Path) -> None:
    """From noise to clean data, over the parts of the grid between; each jump begins where the one before it landed."""
    words = (*WORDS, "grid.spacing=trailing", "source={type='trajectory', lengths='any', batch=64}")
    parts = started(tmp_path, "shortcut", 16, *words, stride=4)
    source, grid = parts.components.source, parts.student.path.grid(16)
    ends, lengths = [4] * 64, Counter[tuple[int, int]]()
    previous = torch.zeros(64, 1, 8, 8)
    for seed in range(40):
        jumps = source.draw(torch.Generator().manual_seed(seed))
        assert jumps.step_size is not None
        for row, (size, times) in enumerate(zip(jumps.step_size.tolist(), jumps.times.T, strict=True)):
            length, begin = round(4 * size), grid.tolist().index(times[0]) // 4
            assert torch.equal(times, grid[4 * begin : 4 * (begin + length) + 1 : length])
            # Some first walks are cut short, which makes the batch staggered.
            assert begin == ends[row] or (begin == 0 and (ends[row] == 4 or seed < 4))
            assert begin == 0 or torch.equal(jumps.z[row], previous[row])
            ends[row] = begin + length
            lengths[begin, length] += 1
        previous = jumps.z + 1
        source.advance(previous)
    assert lengths.keys() == {(begin, length) for begin in range(4) for length in range(1, 5 - begin)}


def test_data_with_jumps_of_any_length(tmp_path: Path) -> None:
    """From every place of the grid, and as far as every later one."""
    words = (*WORDS, "source={type='noised-data', lengths='any', batch=64}")
    parts = started(tmp_path, "shortcut", 16, *words, stride=4)
    source, grid = parts.components.source, parts.student.path.grid(16).tolist()
    seen = Counter[tuple[int, int]]()
    for seed in range(20):
        jumps = source.draw(torch.Generator().manual_seed(seed))
        assert jumps.step_size is not None
        for size, times in zip(jumps.step_size.tolist(), jumps.times.T.tolist(), strict=True):
            begin, length = grid.index(times[0]), round(4 * size)
            assert times == grid[begin : begin + 4 * length + 1 : length]
            seen[begin // 4, length] += 1
    expected = {(begin, length): 1 / 4 / (4 - begin) for begin in range(4) for length in range(1, 5 - begin)}
    assert {key: count / 1280 for key, count in seen.items()} == pytest.approx(expected, abs=0.04)


def test_jumps_of_pure_noise(tmp_path: Path) -> None:
    parts = started(tmp_path, "shortcut", 16, *WORDS, "source={type='pure-noise', batch=64}", stride=4)
    source, grid = parts.components.source, parts.student.path.grid(16)
    assert isinstance(source, PureNoise)
    lengths: Counter[int] = Counter()
    for seed in range(20):
        jumps = source.draw(torch.Generator().manual_seed(seed))
        assert jumps.step_size is not None
        assert abs(jumps.z.std() - 1) < 0.05
        for size, times in zip(jumps.step_size.tolist(), jumps.times.T, strict=True):
            length = round(4 * size)
            assert torch.equal(times, grid[: 4 * length + 1 : length])
            lengths[length] += 1
    assert {length: count / 1280 for length, count in lengths.items()} == pytest.approx(
        dict.fromkeys(range(1, 5), 0.25), abs=0.04
    )


MISTAKES = {
    "model.step_input=false": (
        "model.step_input: must be true: the target 'lagrangian' needs a student that is told the size of its jumps"
    ),
    "source.lengths=any": ('source.lengths: is "any", which does not go with source.levels; leave one of the two out'),
    "source={type='noised-data', lengths='any', times='uniform'}": (
        'source.lengths: is "any", which does not go with source.times = "uniform"; leave one of the two out'
    ),
}


@pytest.mark.parametrize(("words", "expected"), MISTAKES.items())
def test_mistakes(tmp_path: Path, words: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings(tmp_path, "shortcut", "run.updates=4", "target.type=lagrangian", words)
    assert [str(mistake) for mistake in raised.value.mistakes] == [expected]
