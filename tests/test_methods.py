"""Every preset on the digits teacher, in seconds: what it costs, what it learns and how much better few steps get."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean

import pytest
import torch
from conftest import SMALL
from diffusers import UNet2DModel
from distillkit_diffusers.model import DiffusersModel
from helpers.digits import MODEL, PLAIN, SCORED, TEACHER, Run, distil, settings

from distillkit.config import make_plan
from distillkit.noise import Predictor
from distillkit.sampling import noise_for
from distillkit.training import assemble


@dataclass
class Method:
    """How a preset is run here.

    Attributes:
        updates: parameter updates.
        steps: student steps that it aims at here.
        evaluations: network evaluations per update.
        gain: the share of the teacher's score at these steps that the student's may be at most.
        networks: how many networks there are while it trains.
        options: assignments.
    """

    updates: int
    steps: int
    evaluations: int
    gain: float
    networks: int
    options: tuple[str, ...]


# Self-distillation has no anchor: the learning rate times the updates must stay small (it collapses from 3e-4 on).
SELF = ("optimizer.learning_rate=3e-5", "optimizer.final_learning_rate=3e-6", "ema.decay=0.95", 'teacher.type="self"')
ANCHORED = ("optimizer.learning_rate=6e-4", "optimizer.final_learning_rate=6e-5", "ema.decay=0.95", "source.batch=48")
LADDER = ("schedule.steps=8", "target.stride=2", "source.levels=[1, 2, 4]", "source.level_weights=[2, 1, 1]")

CRITIC = (*ANCHORED, "source.batch=32", "source.trajectories=640", "critic.warmup=0.1")

METHODS = {
    "dsdn": Method(64, 2, 2, 0.9, 1, (*SELF, "schedule.steps=4")),
    "dsdi": Method(96, 2, 2, 0.85, 1, (*SELF, "schedule.start=8")),
    "dsdgl": Method(96, 2, 2, 0.85, 1, (*SELF, "schedule.start=8")),
    "dsdgexp": Method(96, 2, 2, 0.85, 1, (*SELF, "schedule.start=8")),
    "tsd": Method(48, 2, 3, 0.6, 2, (*ANCHORED, "schedule.start=4")),
    "pd": Method(48, 2, 3, 0.6, 2, (*ANCHORED, "schedule.start=4")),
    "luhman": Method(
        40, 1, 5, 0.7, 2, (*ANCHORED, "source.batch=16", "optimizer.learning_rate=1e-3", "schedule.steps=4")
    ),
    "luhman-cached": Method(
        40,
        1,
        1,
        0.7,
        1,
        (*ANCHORED, "source.batch=16", "optimizer.learning_rate=1e-3", "schedule.steps=4", "source.trajectories=640"),
    ),
    "any-step": Method(
        60, 2, 1, 0.7, 1, (*ANCHORED, "source.batch=32", "optimizer.learning_rate=1e-3", "source.trajectories=640")
    ),
    "shortcut": Method(60, 1, 5, 0.7, 3, (*ANCHORED, "source.batch=32", "optimizer.learning_rate=1e-3", *LADDER)),
    "dmd": Method(60, 1, 5, 0.9, 3, (*CRITIC, "optimizer.learning_rate=1e-3")),
    "sid": Method(60, 1, 5, 0.9, 3, (*CRITIC, "optimizer.learning_rate=1e-3")),
    "matching": Method(64, 2, 5, 0.5, 2, (*ANCHORED, "source.batch=32", "schedule.steps=8")),
}
SELF_TAUGHT = [name for name, method in METHODS.items() if 'teacher.type="self"' in method.options]
# What a critic says moves with the student.
JUDGED = ["dmd", "sid"]
ANCHORED_ONES = [name for name in METHODS if name not in (*SELF_TAUGHT, *JUDGED)]


@pytest.fixture(scope="module", autouse=True)
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trajectories that are kept are in the working directory."""
    with contextlib.chdir(tmp_path_factory.mktemp("work")):
        yield


def assignments(method: Method) -> list[str]:
    scored = [f"evaluation.steps=[{method.steps}]", "evaluation.samples=200"]
    return ["source.batch=16", *method.options, f"run.updates={method.updates}", *scored]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """One run of each preset."""
    tables = MODEL + PLAIN + SCORED
    return {
        name: distil(tmp_path_factory.mktemp(name), name, *assignments(method), tables=tables)
        for name, method in METHODS.items()
    }


@pytest.mark.parametrize("name", METHODS)
def test_few_steps_get_better(runs: dict[str, Run], name: str) -> None:
    method, run = METHODS[name], runs[name]
    assert run.score("student", method.steps) < method.gain * run.score("teacher", method.steps)


@pytest.mark.parametrize("name", METHODS)
def test_evaluations_per_update(runs: dict[str, Run], tmp_path: Path, name: str) -> None:
    """As counted while they are made, and as planned."""
    method, journal = METHODS[name], runs[name].journal
    assert [line["evaluations"] for line in journal] == [method.evaluations] * method.updates
    plan = make_plan(settings(tmp_path, name, *assignments(method)).components())
    by_stage = [sum(line["evaluations"] for line in lines) for _, lines in groupby(journal, lambda line: line["stage"])]
    assert by_stage == [stage.updates * stage.evaluations for stage in plan]


@pytest.mark.parametrize("name", ANCHORED_ONES)
def test_loss_falls_in_every_stage(runs: dict[str, Run], name: str) -> None:
    """With a teacher that stands still within a stage."""
    for _, lines in groupby(runs[name].journal, lambda line: line["stage"]):
        losses = [line["loss"] for line in lines]
        quarter = len(losses) // 4
        assert fmean(losses[-quarter:]) < 0.9 * fmean(losses[:quarter])


@pytest.mark.parametrize("name", SELF_TAUGHT)
def test_one_jump_gets_closer_to_two_steps_of_the_teacher(runs: dict[str, Run], name: str) -> None:
    """The loss of self-distillation is against a goal that moves, so it is held against one that does not: the
    landing of two steps of the undistilled teacher, on trajectories of the teacher that no run has seen."""
    teacher, student = load(TEACHER), load(runs[name].folder / "pipeline")
    assert error(student, teacher) < 0.85 * error(teacher, teacher)


def load(folder: Path) -> tuple[DiffusersModel, Predictor]:
    model = DiffusersModel(DiffusersModel.Options(path=folder))
    model.load()
    model.spec = model.spec.with_grid("trailing", "auto")
    return model, Predictor(model.network.eval(), model.spec.path, model.spec.prediction, model.forward)


@torch.no_grad()
def error(student: tuple[DiffusersModel, Predictor], teacher: tuple[DiffusersModel, Predictor]) -> float:
    """x-mse with truncated SNR between jumps of two of four steps and what the teacher's steps would have needed."""
    (_, predict), (model, walk) = student, teacher
    path, count = model.spec.path, 100
    z, condition = noise_for(7, range(count), (1, 8, 8)), model.condition(torch.arange(count) % 10, count)
    grid = path.grid(4).unsqueeze(1).expand(-1, count)
    total = torch.tensor(0.0)
    for begin in (0, 2):
        start, z_next = z, z
        for t, s in pairwise(grid[begin : begin + 3]):
            z_next = path.ddim(z_next, walk(z_next, t, condition).x0, t, s)
        t, s = grid[begin], grid[begin + 2]
        goal = path.invert_ddim(start, z_next, t, s)
        total += (path.snr(t).clamp(min=1) * (predict(start, t, condition).x0 - goal).square()).mean()
        z = z_next
    return total.item()


@pytest.mark.parametrize(("preset", "evaluations"), [("training", 1), ("dsd-training", 2)])
def test_training_makes_a_teacher(tmp_path: Path, preset: str, evaluations: int) -> None:
    """From random weights: evaluations per update, the loss falls, and samples look more like digits."""
    options = ["optimizer.warmup=10", "optimizer.learning_rate=5e-3", "ema.decay=0.9", "evaluation.steps=[4]"]
    options += ["evaluation.samples=200", "source.batch=64"]
    tables = SMALL.replace('[tracker]\ntype = "none"\n', "") + PLAIN + SCORED
    run = distil(tmp_path / "long", preset, *options, "run.updates=150", tables=tables)
    untrained = ["run.updates=1", "optimizer.learning_rate=1e-12"]
    before = distil(tmp_path / "short", preset, *options, *untrained, tables=tables)
    assert {line["evaluations"] for line in run.journal} == {evaluations}
    assert fmean(run.losses[-30:]) < 0.6 * fmean(run.losses[:10])
    assert run.score("student", 4) < 0.5 * before.score("student", 4)


@pytest.mark.parametrize(("name", "networks"), [(name, method.networks) for name, method in METHODS.items()])
def test_networks_in_memory(tmp_path: Path, name: str, networks: int) -> None:
    """Self-distillation needs no second network, whatever holds it."""
    gc.collect()
    before = living_networks()
    wanted = settings(tmp_path, name, *assignments(METHODS[name])).components()
    parts = assemble.load(wanted)
    for part in assemble.prepare(parts):
        part()
    planned = parts.plan[0]
    wanted.source.start_stage(planned, parts.student.path)
    assert wanted.target is not None
    wanted.target.start_stage(planned, parts.student.path)
    wanted.engine.forward(wanted.source.draw(torch.Generator()))
    gc.collect()
    assert living_networks() - before == networks


def living_networks() -> int:
    return sum(type(thing) is UNet2DModel for thing in gc.get_objects())
