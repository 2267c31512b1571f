"""Training DSD: equation 1 in float64, weights over the updates, the authors' target, and the curves of Figure 3."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, ConfigFile
from distillkit_dsd.dsd import MergedSteps, SelfTeacher
from distillkit_dsd.variants import NoisierStep
from distillkit_losses.losses import VMse, XMse
from helpers.digits import MODEL, PLAIN, SCORED, distil
from helpers.snippets import ROOT
from torch import Tensor, nn

from distillkit.config import read_config
from distillkit.errors import ConfigError
from distillkit.interfaces import JumpBatch, Loss, Ramp, Stage, Target
from distillkit.noise import Condition, CosinePath, NoisePath, Prediction, Predictor, TablePath
from distillkit.sampling import generator
from distillkit.training.run import run
from distillkit.training.step import DistillStep

BATCH, UPDATES = 6, 100
BARS = torch.from_numpy(np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2))
PATHS: dict[str, NoisePath] = {"cosine": CosinePath(1000, (-20.0, 20.0)), "table": TablePath(BARS)}


class Network(nn.Module):
    """A small network that is not linear in z and knows the time; predicts v."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.mix(z) + (t.to(z.dtype) / 500 - 1).view(-1, 1, 1, 1))


class Counted(Predictor):
    """Counts evaluations with a graph."""

    graphs = 0

    def __call__(self, z: Tensor, t: Tensor, condition: Condition, step_size: Tensor | None = None) -> Prediction:
        self.graphs += torch.is_grad_enabled()
        return super().__call__(z, t, condition, step_size)


def call(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    output: Tensor = network(z, t)
    return output


def made(path: NoisePath, target: Target, alpha: object = 0.85, beta: object = 0.15) -> tuple[DistillStep, Counted]:
    """An update of training DSD, and its student."""
    student = Counted(Network(), path, "v_prediction", call)
    teacher = SelfTeacher(SelfTeacher.Options())
    teacher.setup(student)
    losses: list[Loss] = [
        VMse(VMse.Options.model_validate({"against": "data", "weight": alpha})),
        XMse(XMse.Options.model_validate({"weight": beta})),
    ]
    return DistillStep(student, teacher, target, losses, path, UPDATES), student


def jumps(path: NoisePath, *starts: float, span: float) -> JumpBatch:
    """Jumps of two fine steps, the last one ending at clean data; as `starts` has them."""
    generator = torch.Generator().manual_seed(1)
    x, noise = torch.rand(BATCH, 1, 5, 5, generator=generator), torch.randn(BATCH, 1, 5, 5, generator=generator)
    start = torch.tensor(starts)
    times = torch.stack([start, start - span / 2, start - span])
    times[-1, -1] = -1
    if not path.grid(1).is_floating_point():
        times = times.round().long()
    return JumpBatch(path.noised(x, noise, times[0]), times, Condition(), x, noise)


def coefficients(path: NoisePath, t: Tensor) -> tuple[Tensor, Tensor]:
    """α and σ at t, float64, [B, 1, 1, 1]; 1 and 0 at clean data."""
    if isinstance(path, CosinePath):
        b, a = np.arctan(np.exp(-10)), np.arctan(np.exp(10)) - np.arctan(np.exp(-10))
        angle = torch.where(t == -1, 0, a * (t.double() + 1) / 1000 + b)
        alpha, sigma = angle.cos(), angle.sin()
    else:
        bar = torch.cat([BARS, torch.ones(1, dtype=torch.float64)])[t]
        alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    return alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)


def equation_1(network: nn.Module, path: NoisePath, step: JumpBatch, alpha: float, beta: float) -> Tensor:
    """α·[v̂_t − v_t]² + β·[x' − x'']² with x' and x'' as Algorithm 2 prints them, x'' detached, in float64."""
    assert step.data is not None
    assert step.noise is not None
    x, eps, times = step.data.double(), step.noise.double(), step.times
    (a0, s0), (a1, s1), (a2, s2) = (coefficients(path, t) for t in times)
    z = a0 * x + s0 * eps
    v_hat = network(z, times[0])
    x_hat = a0 * z - s0 * v_hat
    z1 = a1 * x_hat + s1 / s0 * (z - a0 * x_hat)
    first = (z1 - s1 / s0 * z) / (a1 - s1 / s0 * a0)  # x'
    with torch.no_grad():
        x_hat1 = a1 * z1 - s1 * network(z1, times[1])
        z2 = a2 * x_hat1 + s2 / s1 * (z1 - a1 * x_hat1)
        second = (z2 - s2 / s0 * z) / (a2 - s2 / s0 * a0)  # x''
    return alpha * (v_hat - (a0 * eps - s0 * x)).square().mean() + beta * (first - second).square().mean()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_equation_1_and_its_gradient(path: NoisePath) -> None:
    update, student = made(path, MergedSteps(MergedSteps.Options()))
    step = jumps(path, 999, 905.3, 700.7, 450.1, 200.9, 60.0, span=62.0)
    loss, aim, *_ = update(step)
    loss.backward()
    assert aim is not None
    assert not aim.x0.requires_grad
    # ẑ_t once, with the one graph, and the target's without.
    assert (student.evaluations.count, student.graphs) == (2, 1)

    oracle = Network().double()
    expected = equation_1(oracle, path, step, 0.85, 0.15)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in zip(student.network.parameters(), oracle.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ({"from": 0.0, "to": 0.2, "updates": 40}, {0: 0.0, 10: 0.05, 39: 0.195, 40: 0.2, 99: 0.2}),
        ({"from": 0.3, "to": 0.1}, {0: 0.3, 33: 0.7 / 3, 66: 0.5 / 3, 99: 0.1}),
        (0.15, {0: 0.15, 99: 0.15}),
    ],
)
def test_weights_over_the_updates(weight: object, expected: dict[int, float]) -> None:
    path = PATHS["cosine"]
    update, _ = made(path, MergedSteps(MergedSteps.Options()), beta=weight)
    step = jumps(path, 999, 905.3, 700.7, 450.1, 200.9, 60.0, span=62.0)
    for number, beta in expected.items():
        loss, *_ = update(step, number)
        assert loss.item() == pytest.approx(equation_1(Network().double(), path, step, 0.85, beta).item(), rel=1e-5)


def test_the_loop_counts_updates_for_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Updates, not batches, and those of the whole run, not of a stage."""
    asked: list[tuple[int, int]] = []
    at = Ramp.at

    def remember(self: Ramp, update: int, updates: int) -> float:
        asked.append((update, updates))
        return at(self, update, updates)

    monkeypatch.setattr(Ramp, "at", remember)
    options = ["run.updates=6", "source.batch=2", "optimizer.accumulate=2", "schedule.type='halving'"]
    options += ["loss[1].weight={from=0.0, to=0.15}"]
    distil(tmp_path, "dsd-training", *options, "schedule.start=8")
    assert asked == [(update, 6) for update in range(6) for _ in range(2)]  # two batches, one term with a ramp


def test_noisier_step_is_the_network_on_fresh_noise_a_step_before() -> None:
    for path in PATHS.values():
        update, student = made(path, NoisierStep(NoisierStep.Options()))
        starts = jumps(path, 999, 950.0, 700.7, 450.1, 200.9, 60.0, span=124.0)
        step = replace(
            starts, times=starts.times[:2], seed=(3, 1, 0)
        )  # steps of 62, and a last time so near that there is none above
        _, aim, *_ = update(step)
        assert aim is not None
        fresh = torch.randn(BATCH, 1, 5, 5, generator=generator(3, 1, 0, "target")).double()
        noisier = (step.times[0] + (step.times[0] - step.times[1])).clamp(max=999)
        assert noisier[:3].tolist() == [999, 999, step.times[0, 2] + 62]
        assert step.data is not None
        alpha, sigma = coefficients(path, noisier)
        z = alpha * step.data.double() + sigma * fresh
        with torch.no_grad():
            expected = alpha * z - sigma * Network().double()(z, noisier)
        torch.testing.assert_close(aim.x0.double(), expected, rtol=1e-4, atol=1e-5)
        assert not torch.isclose(fresh.float(), step.noise).any()
        assert student.evaluations.count == 2
        assert NoisierStep(NoisierStep.Options()).stride(Stage(8, 1)) == 1


def test_from_a_checkpoint(tmp_path: Path) -> None:
    """On the path of the model that it starts from: whole times, every one of them, and a teacher to compare with."""
    options = ["run.updates=20", "source.batch=32", "optimizer.warmup=1", "evaluation.samples=100"]
    done = distil(tmp_path, "dsd-training", *options, tables=MODEL + PLAIN + SCORED)
    assert {line["evaluations"] for line in done.journal} == {2}
    # A trained network's loss, not a new one's, and it stays a good one.
    assert done.losses[0] < 0.5
    assert done.score("student", 2) < 1.1 * done.score("teacher", 2)


def test_a_new_network_is_no_teacher(tmp_path: Path) -> None:
    options = ["run.updates=2", "source.batch=2", "evaluation.samples=10"]
    tables = SMALL.replace('[tracker]\ntype = "none"\n', "") + PLAIN + SCORED
    done = distil(tmp_path, "dsd-training", *options, tables=tables)
    rows = json.loads((done.folder / "scores.json").read_text(encoding="utf-8"))
    assert {row["model"] for row in rows} == {"student"}


def test_dropout_as_in_plain_training(tmp_path: Path) -> None:
    """Without the term, and with a term that weighs nothing, the first losses are the same."""
    tables = SMALL.replace("num_class_embeds = 11", "num_class_embeds = 11, dropout = 0.5") + PLAIN.replace(
        '[tracker]\ntype = "none"\n', ""
    )
    common = ["run.updates=1", "source.batch=8", "source.times='uniform'", "schedule.steps=8", "optimizer.warmup=1"]
    plain = distil(tmp_path / "plain", "training", *common, "loss[0].weight=0.85", tables=tables)
    term = ["loss[1].weight={from=0.0, to=1.0}", "grid.start=999"]
    # Both draw the same jumps only where these are as long: the plain one has no target, and so a stride of 1.
    ours = distil(tmp_path / "ours", "dsd-training", *common, *term, "target.type='noisier-step'", tables=tables)
    assert plain.losses == pytest.approx(ours.losses, rel=1e-6)


MISTAKES = {
    "loss[1].weight=-0.15": "loss[1].weight: must be at least 0, or a table (got -0.15)",
    "loss[1].weight={from=-0.1, to=0.2}": "loss[1].weight.from: must be at least 0 (got -0.1)",
    "loss[1].weight={from=0.1}": "loss[1].weight.to: is required",
    "loss[1].weight={from=0.1, to=0.2, updates=0}": "loss[1].weight.updates: must be at least 1 (got 0)",
    "loss[1].weight={from=0.1, to=0.2, until=9}": (
        "loss[1].weight.until: unknown option of loss[1].weight; it has: from, to, updates"
    ),
    "source.times='even'": "source.times: must be 'grid' or 'uniform' (got 'even')",
}


@pytest.mark.parametrize("assignment", MISTAKES)
def test_mistakes(config: ConfigFile, assignment: str) -> None:
    path = config.write('preset = "dsd-training"\n[run]\nupdates = 7\n[data]\ntype = "digits"\n')
    with pytest.raises(ConfigError) as caught:
        read_config(path, [assignment])
    assert str(caught.value) == f"{path}: 1 error\n  {MISTAKES[assignment]}"


def test_noisier_step_needs_data(config: ConfigFile) -> None:
    path = config.write('preset = "dsdi"\n[run]\nupdates = 7\n[target]\ntype = "noisier-step"\n')
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    message = "target: 'noisier-step' needs a source with data; 'trajectory' has none: use 'noised-data'"
    assert str(caught.value) == f"{path}: 1 error\n  {message}"


# --- Figure 3 --------------------------------------------------------------------------------------------------------

CONFIGS = (ROOT / "configs/digits_training.toml", ROOT / "configs/digits_dsd_training.toml")
SHORT = [
    "run.updates=7",
    "source.batch=8",
    "evaluation.samples=20",
    "evaluation.every=2",
    "evaluation.every_samples=20",
]


def test_the_two_configs_differ_in_the_term_alone() -> None:
    plain, ours = (read_config(config).tables for config in CONFIGS)
    differing = {key for key in plain.keys() | ours.keys() if plain.get(key) != ours.get(key)}
    assert differing == {"run", "schedule", "loss", "teacher", "target"}
    assert plain["run"] | {"name": "", "method": ""} == ours["run"] | {"name": "", "method": ""}
    assert [{**loss, "weight": 1} for loss in ours["loss"][:1]] == [{**loss, "weight": 1} for loss in plain["loss"]]


def test_curves_and_the_figure(tmp_path: Path) -> None:
    for config in CONFIGS:
        run(read_config(config, SHORT), tmp_path / config.stem)
        lines = (tmp_path / config.stem / "curves.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["update"] for row in rows] == [2, 4, 6]
        assert {key for row in rows for key in row["scores"]} == {f"fd-pixels/steps-{n}" for n in (2, 4, 8)}
        for before, after in pairwise(row["scores"]["fd-pixels/steps-4"] for row in rows):
            assert before != after
    script = [sys.executable, ROOT / "docs/figure3.py", *(tmp_path / config.stem for config in CONFIGS)]
    figure = tmp_path / "figure.png"
    subprocess.run([*script, "--score", "fd-pixels/steps-8", "--output", figure], check=True)
    assert figure.read_bytes().startswith(b"\x89PNG")
    done = subprocess.run([*script, "--score", "fid/steps-3"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no score fid/steps-3; it has: fd-pixels/steps-2, fd-pixels/steps-4, fd-pixels/steps-8" in done.stderr
