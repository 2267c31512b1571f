"""Consistency distillation: its target and what is held against it in float64, and runs of its preset on digits."""

from __future__ import annotations

import gc
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import LCMScheduler, UNet2DModel
from distillkit_consistency.target import Consistency
from distillkit_losses.losses import XMse
from helpers.digits import MODEL, PLAIN, SCORED, Run, distil, read_checkpoint, settings
from helpers.targets import (
    ALPHA,
    PATH,
    SIGMA,
    UPDATE,
    Network,
    call,
    frozen,
    jump,
    predictor,
    self_teacher,
    weights,
    x0_at,
)

from distillkit.config import make_plan
from distillkit.interfaces import JumpBatch, Stage, TargetBatch, Teacher
from distillkit.noise import Condition, CosinePath, Predictor
from distillkit.sampling import boundary_scalings
from distillkit.training import assemble
from distillkit.training.step import DistillStep

JUMPS = [(999, 937), (499, 436), (62, 14), (1, 0), (124, -1), (3, -1)]


def close(actual: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=2e-5, atol=2e-5)


def set_up(average: Predictor, decay: float = 0.9) -> Consistency:
    target = Consistency(Consistency.Options(decay=decay))
    target.setup(average)
    return target


def compute(target: Consistency, jumps: JumpBatch, student: Predictor, teacher: Teacher) -> TargetBatch:
    prediction = student(jumps.z, jumps.times[0], jumps.condition)
    with torch.no_grad():
        return target.compute(jumps, replace(prediction, x0=prediction.x0.detach()), teacher, PATH)


def f(network: Predictor, z: np.ndarray, t: int) -> np.ndarray:
    """The consistency function in float64, with LCM's scalings: s = 10, σ_d = 0.5."""
    x0 = x0_at(network, torch.from_numpy(z).float(), t).double().numpy()
    return 0.25 / ((10 * t) ** 2 + 0.25) * z + 10 * t / np.sqrt((10 * t) ** 2 + 0.25) * x0


def test_scalings_are_lcms() -> None:
    scheduler = LCMScheduler()
    skip, out = boundary_scalings(torch.arange(1000))
    assert skip.shape == out.shape == (1000, 1, 1, 1)
    theirs = np.array([scheduler.get_scalings_for_boundary_condition_discrete(t) for t in range(1000)])
    np.testing.assert_allclose(skip.flatten(), theirs[:, 0], rtol=1e-6)
    np.testing.assert_allclose(out.flatten(), theirs[:, 1], rtol=1e-6)
    assert (skip[0].item(), out[0].item()) == (1, 0)


@pytest.mark.parametrize(("t", "s"), JUMPS)
def test_target_is_the_averages_f_after_the_teachers_step(t: int, s: int) -> None:
    student, teacher_network, average, jumps = predictor(0), predictor(1), predictor(2), jump(t, s)
    made = compute(set_up(average), jumps, student, frozen(teacher_network))
    z = jumps.z.double().numpy()
    x0 = x0_at(teacher_network, jumps.z, t).double().numpy()
    landed = ALPHA[s] * x0 + SIGMA[s] * (z - ALPHA[t] * x0) / SIGMA[t]
    close(made.z_next, landed)
    # The boundary: f of clean data is the data.
    close(made.x0, landed if s == -1 else f(average, landed, s))
    assert not made.x0.requires_grad


@pytest.mark.parametrize("against", ["target", "data"])
def test_losses_against_the_target_see_f_and_those_against_data_see_x(against: str) -> None:
    """At t = 1, where f is not x̂; through the module that is called once per update."""
    student, average, jumps = predictor(0), predictor(2), jump(1, 0)
    jumps = JumpBatch(jumps.z, jumps.times, jumps.condition, torch.randn(jumps.z.shape), jumps.z)
    teacher, target = frozen(predictor(1)), set_up(average)
    loss = XMse(XMse.Options.model_validate({"against": against}))
    value, aim, *_ = DistillStep(student, teacher, target, [loss], PATH, 1)(jumps)
    value.backward()
    assert aim is not None
    assert jumps.data is not None
    seen = f(student, jumps.z.double().numpy(), 1)
    if against == "data":
        seen, goal = x0_at(student, jumps.z, 1).double().numpy(), jumps.data
    else:
        goal = aim.x0
    assert value.item() == pytest.approx(np.square(seen - goal.double().numpy()).mean(), rel=1e-4)
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in student.network.parameters())
    assert all(weight.grad is None for weight in average.network.parameters())


def test_below_the_first_time_it_is_as_there() -> None:
    """Real times reach to −1, where clean data stand; the scalings are those of times from 0."""
    path = CosinePath(1000, (-20.0, 20.0))
    network = Predictor(Network(), path, "v_prediction", call)
    with torch.no_grad():
        student = network(torch.randn(2, 1, 5, 5), torch.tensor([0.0, 0.0]), Condition())

    def viewed(t: float) -> torch.Tensor:
        jumps = JumpBatch(student.z, torch.tensor([[t, t], [-1.0, -1.0]]), Condition())
        return set_up(network).compute(jumps, student, self_teacher(network), path).view(student).x0

    assert torch.equal(viewed(-0.5), viewed(0.0))


def test_evaluations() -> None:
    student, jumps = predictor(), jump(999, 749)
    for teacher, expected in (
        (frozen(student), 2),
        (frozen(student, first_step="student"), 1),
        (self_teacher(student), 1),
    ):
        target = set_up(student)
        before = student.evaluations.count
        compute(target, jumps, student, teacher)
        assert student.evaluations.count - before == 1 + expected
        assert (target.stride(Stage(8, 1)), target.teacher_evaluations(Stage(8, 1), teacher)) == (1, expected)


def test_average_follows_slowly_and_goes_on_from_its_state() -> None:
    student = predictor()
    target, other = set_up(student, decay=0.9), set_up(predictor(3), decay=0.9)
    start = weights(target).double()
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(1)
    target.after_update(student, UPDATE)
    target.after_update(student, UPDATE)
    torch.testing.assert_close(weights(target).double(), start + (1 - 0.9**2), rtol=0, atol=1e-6)
    other.load_state_dict(target.state_dict())
    jumps = jump(999, 749)
    made = [compute(one, jumps, student, frozen(student)).x0 for one in (target, other)]
    assert torch.equal(made[0], made[1])


# --- on digits ------------------------------------------------------------------------------------------------------

SOURCES = {"trajectory": (), "noised-data": ('source.type="noised-data"',)}
SHORT = ("run.updates=60", "source.batch=16", "schedule.steps=8", "target.decay=0.7", "optimizer.learning_rate=1e-3")
SCORES = ("evaluation.steps=[1, 2]", "evaluation.samples=200")


@pytest.fixture(scope="module", params=SOURCES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    options = [*SOURCES[request.param], *SHORT, *SCORES]
    return distil(tmp_path_factory.mktemp("consistency"), "consistency", *options, tables=MODEL + PLAIN + SCORED)


def test_few_steps_get_better(run: Run) -> None:
    """The student by consistency sampling, the teacher by DDIM; more steps are better."""
    assert run.score("student", 1) < 0.6 * run.score("teacher", 1)
    assert run.score("student", 2) < 0.5 * run.score("teacher", 2)
    assert run.score("student", 2) < run.score("student", 1)


def test_three_evaluations_per_update(run: Run, tmp_path: Path) -> None:
    assert [line["evaluations"] for line in run.journal] == [3] * 60
    [planned] = make_plan(settings(tmp_path, "consistency", *SHORT).components())
    assert (planned.stride, planned.evaluations) == (1, 3)


def test_networks_in_memory(tmp_path: Path) -> None:
    """Student, teacher and the target's average."""

    def living() -> int:
        gc.collect()
        return sum(type(thing) is UNet2DModel for thing in gc.get_objects())

    before = living()
    parts = assemble.load(settings(tmp_path, "consistency", *SHORT).components())
    assemble.prepare(parts)
    assert living() - before == 3


@pytest.mark.parametrize("source", SOURCES)
def test_resumed_run_is_the_same_run(tmp_path: Path, source: str) -> None:
    options = [*SOURCES[source], *SHORT, "run.updates=6", "run.checkpoint_every=3", "source.batch=3"]
    whole = distil(tmp_path / "whole", "consistency", *options)
    shutil.copytree(whole.folder, tmp_path / "half/run")
    shutil.rmtree(tmp_path / "half/run/checkpoints/update-000006")
    shutil.rmtree(tmp_path / "half/run/pipeline")
    resumed = distil(tmp_path / "half", "consistency", *options, resume=True)
    expected, found = (read_checkpoint(one.folder / "checkpoints/update-000006") for one in (whole, resumed))
    assert found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    averages = [key for key in expected if key.startswith("target/")]
    assert len(averages) == len(whole.weights())
    assert any(not torch.equal(expected[key], expected[key.replace("target", "teacher")]) for key in averages)
