"""NaN and Inf in loss, gradient and target: no weight ever takes them, and an update of them is left out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import count
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.digits import distil, read_checkpoint, started
from helpers.toys import UPDATES, Toy, batch, make_update, prepared
from torch import Tensor

from distillkit.config import RunTable
from distillkit.interfaces import EmaTable, JumpBatch, Landing, TargetBatch
from distillkit.training.journal import SKIPS, Diverged, DivergenceGuard
from distillkit.training.loop import _next_z
from distillkit.training.step import CriticStep, DistillStep

SHORT = ("run.updates=6", "run.log_every=1", "run.checkpoint_every=1", "run.keep=9", "source.batch=3")


# --- the engine ------------------------------------------------------------------------------------------------------


def poisoned(engine: Any, kind: str) -> Any:
    """One update of which something is not finite."""
    inputs, goals = batch(99)
    if kind == "gradient":
        weight = next(iter(engine._module.parameters()))
        hook = weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), -inf))
    loss, _ = engine.forward((inputs, goals * (nan if kind == "target" else 1)))
    made = engine.update(loss + inf if kind == "loss" else loss, 1e-2)
    if kind == "gradient":
        hook.remove()
    return made


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("kind", ["target", "loss", "gradient"])
def test_an_update_that_is_not_finite_was_never_made(kind: str, warmup: bool) -> None:
    """An infinite loss has a finite gradient here; weights, average, moments and AdamW's step are as without it."""
    ema = EmaTable(decay=0.9, warmup=warmup)
    spoiled, clean = Toy(), Toy()
    one, other = prepared(spoiled, ema, weight_decay=0.1), prepared(clean, ema, weight_decay=0.1)
    for update in range(UPDATES):
        if update in (0, 4, 5):
            made = poisoned(one, kind)
            assert made.made is not None
            assert made.made.item() == 0
        assert make_update(one, update).made == 1
        make_update(other, update)
    found = one.state_dict()
    assert [key for key, value in other.state_dict().items() if not torch.equal(value, found[key])] == []


def test_one_of_the_accumulated_batches_is_enough() -> None:
    module = Toy()
    engine = prepared(module, learning_rate=1e-2, accumulate=2)
    before = [weight.detach().clone() for weight in module.parameters()]
    for factor in (nan, 1.0):
        loss, _ = engine.forward(batch(0))
        made = engine.update(loss * factor, 1e-2)
    assert made is not None
    assert made.made == 0
    assert all(torch.equal(weight, old) for weight, old in zip(module.parameters(), before, strict=True))


@pytest.mark.gpu
def test_no_update_waits_for_the_device() -> None:
    engine = prepared(Toy(), EmaTable(decay=0.9, warmup=True), device="cuda", learning_rate=1e-2)
    steps = [tuple(tensor.cuda() for tensor in batch(update)) for update in range(4)]
    make_update(engine, 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for jumps in steps:
            loss, _ = engine.forward(jumps)
            engine.update(loss * nan, 1e-2)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- a run -----------------------------------------------------------------------------------------------------------


def spoil(patch: pytest.MonkeyPatch, *updates: int) -> None:
    """Make the losses of some updates, from 0, not a number."""
    forward = DistillStep.forward

    def spoiled(self: DistillStep, jumps: JumpBatch, update: int) -> Any:
        loss, *rest = forward(self, jumps, update)
        return (loss * nan if update in updates else loss), *rest

    patch.setattr(DistillStep, "forward", spoiled)


@pytest.mark.parametrize("teacher", [("teacher.type=ema", "teacher.decay=0.5"), ("teacher.type=self",)])
def test_a_run_leaves_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], teacher: tuple[str, ...]
) -> None:
    spoil(monkeypatch, 2)
    run = distil(tmp_path, "dsdn", *SHORT, *teacher, "schedule.steps=8", "run.on_divergence=skip", "ema.decay=0.5")
    text = (run.folder / "journal.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert [line.get("skipped", False) for line in run.journal] == [False, False, True, False, False, False]
    assert (run.journal[2]["loss"], run.journal[2]["grad_norm"]) == (None, None)
    assert run.journal[2]["x0_rms"] > 0
    assert "1 of the updates until 3 left out: they were not finite\n" in capsys.readouterr().out
    before, after, later = (read_checkpoint(run.folder / f"checkpoints/update-00000{i}") for i in (2, 3, 4))
    trained = [key for key in before if key.startswith(("engine/", "teacher/"))]
    assert [key for key in trained if not torch.equal(before[key], after[key])] == []
    assert any(not torch.equal(later[key], after[key]) for key in trained)
    # The same trajectories go on: only its loss was not finite.
    assert not torch.equal(before["source/z"], after["source/z"])


def test_it_resumes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a line of the journal says that one was left out."""
    spoil(monkeypatch, 1, 4)
    options = (*SHORT, "schedule.start=8", "run.on_divergence=skip")
    whole = distil(tmp_path / "whole", "dsdi", *options)
    half = distil(tmp_path / "half", "dsdi", *options)
    for folder in ("pipeline", *(f"checkpoints/update-00000{i}" for i in (4, 5, 6))):
        shutil.rmtree(half.folder / folder)
    half = distil(tmp_path / "half", "dsdi", *options, resume=True)
    assert [line | {"seconds": 0} for line in half.journal] == [line | {"seconds": 0} for line in whole.journal]
    assert all(torch.equal(weight, half.weights()[key]) for key, weight in whole.weights().items())


@pytest.mark.parametrize("every", [0, 2])
def test_a_run_that_stops_names_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    spoil(monkeypatch, 4)
    options = ("run.updates=6", "run.log_every=1", "schedule.steps=8", f"run.checkpoint_every={every}")
    with pytest.raises(Diverged) as caught:
        distil(tmp_path, "dsdn", *options)
    newest = tmp_path / "run/checkpoints/update-000004"
    if every:
        assert f"; the newest checkpoint is {newest}: go on from it with --resume, --set opt" in str(caught.value)
        assert all(value.isfinite().all() for value in read_checkpoint(newest).values())
    else:
        assert "; no checkpoint was made before" in str(caught.value)
    assert not (tmp_path / "run/pipeline").exists()


CRITIC = ("schedule.steps=4", "source.levels=[1, 2, 4]", "source.level_weights=[1, 1, 1]", "source.trajectories=8")


def spoil_critic(patch: pytest.MonkeyPatch, kind: str, update: int) -> None:
    """Make a critic's loss, or one number of its gradient, not finite, in the second of the updates that it makes."""
    forward = CriticStep.forward

    def spoiled(self: CriticStep, landing: Landing, number: int) -> Tensor:
        loss = forward(self, landing, number)
        if (landing.jumps.seed[1], number) != (update, 1):
            return loss
        if kind == "gradient":
            weight = next(self.network.parameters())
            hook = weight.register_hook(lambda gradient: hook.remove() or gradient * inf)  # type: ignore[func-returns-value]
        return loss + nan if kind == "loss" else loss

    patch.setattr(CriticStep, "forward", spoiled)


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_what_is_not_finite_in_a_critic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """It makes one update instead of two; the student makes its own. Such a run resumes to the same, or stops."""
    options = (*SHORT, *CRITIC, "critic.updates=2", "critic.warmup=0.3", "critic.optimizer.learning_rate=1e-3")
    options += (f"source.folder={tmp_path / 'trajectories'}",)
    spoil_critic(monkeypatch, kind, 3)
    run = distil(tmp_path / "skip", "dmd", *options, "run.on_divergence=skip")
    assert [line.get("skipped", False) for line in run.journal] == [False] * 3 + [True] + [False] * 2
    json.dumps(run.journal, allow_nan=False)
    line = run.journal[3]
    assert line["critic_grad_norm"] is None
    assert (line["critic_loss"] is None) == (kind == "loss")
    assert line["grad_norm"] > 0
    states = [read_checkpoint(run.folder / f"checkpoints/update-00000{i}") for i in range(1, 7)]
    assert all(value.isfinite().all() for state in states for value in state.values())
    assert [state["engine/critic/updates"].item() for state in states] == [2, 4, 6, 7, 9, 11]
    assert [state["engine/updates"].item() for state in states] == [0, 0, 1, 2, 3, 4]
    for later in (4, 5, 6):
        shutil.rmtree(run.folder / f"checkpoints/update-00000{later}")
    shutil.rmtree(run.folder / "pipeline")
    again = distil(tmp_path / "skip", "dmd", *options, "run.on_divergence=skip", resume=True)
    newest = read_checkpoint(again.folder / "checkpoints/update-000006")
    assert [key for key, value in states[-1].items() if not torch.equal(newest[key], value)] == []
    with pytest.raises(
        Diverged, match=r"update 4: the critic's loss is \S+ and its gradient's norm \S+: .*critic\.optimizer"
    ):
        distil(tmp_path / "stop", "dmd", *options)


def test_too_many_in_a_row_end_the_run() -> None:
    guard = DivergenceGuard(RunTable(name="run", updates=99, on_divergence="skip"))
    line = {"update": 1, "loss": None, "grad_norm": None, "x0_rms": None, "learning_rate": 1e-3, "skipped": True}
    for _ in range(SKIPS):
        guard.check(line)
    with pytest.raises(
        Diverged, match=rf"^update 1: this update and the {SKIPS} before it are not finite: the run has"
    ):
        guard.check(line)


# --- trajectories ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("staggered", [False, True])
def test_a_walk_that_is_not_finite_begins_anew(tmp_path: Path, staggered: bool) -> None:
    """Sample 1 of 3, at its second jump of 4: from its own noise; it ends with the others' walks."""
    parts = started(tmp_path, "dsdi", 8, "source.batch=3", f"source.staggered={str(staggered).lower()}")
    source = parts.components.source
    draws: list[JumpBatch] = []
    for i in range(8):
        draws.append(jumps := source.draw(torch.Generator().manual_seed(i)))
        z = jumps.z + 1
        if i == 4:
            z[1, 0, 3, 3] = nan
        source.advance(z)
    same = started(
        tmp_path, "dsdi", 8, "source.batch=3", f"source.staggered={str(staggered).lower()}"
    ).components.source
    clean: list[JumpBatch] = []
    for i in range(8):
        clean.append(jumps := same.draw(torch.Generator().manual_seed(i)))
        same.advance(jumps.z + 1)
    grid = [999, 749, 499, 249]
    begun = max(i for i in range(5) if clean[i].times[0, 1] == 999)
    over = next((i for i in range(5, 8) if clean[i].times[0, 1] == 999), 8)
    for i, (one, other) in enumerate(zip(draws, clean, strict=True)):
        assert torch.equal(one.z[[0, 2]], other.z[[0, 2]])
        assert torch.equal(one.times[:, [0, 2]], other.times[:, [0, 2]])
        if 5 <= i < over:
            assert one.times[0, 1] == grid[i - 5]
            torch.testing.assert_close(one.z[1], clean[begun].z[1] + (i - 5))
        else:
            assert torch.equal(one.z[1], other.z[1])
            assert torch.equal(one.times[:, 1], other.times[:, 1])


def test_a_target_that_is_not_finite_tells_the_trajectory() -> None:
    x0 = torch.zeros(3, 1, 2, 2)
    x0[2, 0, 1, 1] = inf
    z = _next_z(x0, torch.ones(3, 1, 2, 2))
    assert torch.equal(z[:2], torch.ones(2, 1, 2, 2))
    assert z[2].isnan().all()


def test_a_run_whose_targets_are_not_finite_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trajectory matching keeps the teacher's own walk, which would stay what it is to the end."""
    from distillkit_matching.trajectory_matching import TrajectoryMatching

    compute, calls = TrajectoryMatching.compute, count()

    def spoiled(self: TrajectoryMatching, jumps: JumpBatch, *rest: Any) -> TargetBatch:
        aim = compute(self, jumps, *rest)
        if next(calls) == 2:
            assert self._walk is not None
            self._walk = replace(self._walk, z=self._walk.z.index_fill(0, torch.tensor([0]), nan))
            x0: Tensor = aim.x0.index_fill(0, torch.tensor([0]), nan)
            return replace(aim, x0=x0)
        return aim

    monkeypatch.setattr(TrajectoryMatching, "compute", spoiled)
    options = ("run.updates=8", "run.log_every=4", "schedule.steps=8", "target.stride=2", "source.batch=2")
    run = distil(tmp_path, "matching", *options, "run.on_divergence=skip")
    assert [line["update"] for line in run.journal if line.get("skipped")] == [3]
    json.dumps(run.journal, allow_nan=False)
