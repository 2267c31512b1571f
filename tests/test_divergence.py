"""Runs that run away: they stop with a sentence, or go back and on more slowly."""

from __future__ import annotations

import json
import re
import signal
from math import nan
from pathlib import Path

import pytest
import torch
from helpers.digits import MODEL, PLAIN, SCORED, Run, distil, read_checkpoint
from safetensors import safe_open

from distillkit.config import RunTable
from distillkit.errors import RunInterrupted
from distillkit.training.journal import FIRST, Diverged, DivergenceGuard
from distillkit.training.scoring import RunScores

# At this rate, the loss and x̂ run away some updates after the first FIRST.
WILD = (
    *("run.updates=60", "run.log_every=1", "schedule.start=4", "source.batch=4", "optimizer.clip=0"),
    *("optimizer.learning_rate=3e-3", "optimizer.final_learning_rate=3e-3", "run.x0_limit=2", "run.loss_limit=1e9"),
)


def line(update: int, **found: float) -> dict[str, float]:
    return {"update": update, "learning_rate": 1e-4, "loss": 1.0, "grad_norm": 1.0, "x0_rms": 1.0} | found


def test_the_limits_are_of_the_largest_of_the_first_updates() -> None:
    limits = RunTable(name="a", updates=99, loss_limit=4, x0_limit=3)
    guard = DivergenceGuard(limits)
    for update in range(FIRST):
        guard.check(line(update, loss=2.0 if update == 7 else 1.0))
    guard.check(line(20, loss=8.0, x0_rms=3.0))
    with pytest.raises(
        Diverged, match=r"update 21: the loss is 8\.01, more than 4 times .*\(2 at most\).*run\.loss_limit"
    ):
        guard.check(line(21, loss=8.01))
    with pytest.raises(Diverged, match=r"update 22: the root mean square of x̂ is 3\.01, .*or raise run\.x0_limit"):
        guard.check(line(22, x0_rms=3.01))
    for key in ("loss", "grad_norm", "x0_rms"):
        with pytest.raises(
            Diverged, match=r"update 23: .*the run has diverged; lower optimizer\.learning_rate \(it was 0\.0001"
        ):
            guard.check(line(23, **{key: float("nan")}))


def test_a_run_that_runs_away_stops(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"the root mean square of x̂ is \S+, more than 2 times") as caught:
        distil(tmp_path, "dsdi", *WILD)
    [told] = map(int, re.findall(r"^update (\d+):", str(caught.value)))
    lines = (tmp_path / "run/journal.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(text) for text in lines]
    assert FIRST < told == len(rows) + 1, "only the updates before are written"
    first = max(row["x0_rms"] for row in rows[:FIRST])
    assert all(row["x0_rms"] <= 2 * max(first, 1) for row in rows)
    assert not (tmp_path / "run/pipeline").exists()


def test_the_journal_has_the_size_of_what_the_student_predicted(tmp_path: Path) -> None:
    """At clean data nearly: the rms of the digits themselves."""
    clean = ("source.batch=64", "grid.start=0", "schedule.steps=1", "evaluation.steps=[1]")
    quiet = distil(tmp_path, "training", "run.updates=1", *clean)
    from distillkit_data.datasets import Digits

    data = Digits(Digits.Options())
    data.setup()
    images, _ = data.batch(torch.arange(len(data)))
    assert quiet.journal[0]["x0_rms"] == pytest.approx(images.square().mean().sqrt().item(), rel=0.03)


def test_a_run_goes_back_and_on_at_half_the_learning_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back = ("run.on_divergence=rollback", "run.checkpoint_every=8", "run.keep=99")
    run = distil(tmp_path, "dsdi", *WILD, *back)
    said = re.findall(
        r"going back to update (\d+), at (\S+) of the learning rate \(rollback (\d) of 5\)", capsys.readouterr().out
    )
    assert said, "a test without a rollback would show nothing"
    assert [float(factor) for _, factor, _ in said] == [0.5**i for i in range(1, len(said) + 1)]
    assert [row["update"] for row in run.journal] == list(range(1, 61)), "one line for each that counted"
    position = json.loads((run.folder / "checkpoints/update-000060/position.json").read_text(encoding="utf-8"))
    assert position["rollbacks"] == len(said)
    assert run.journal[0]["learning_rate"] == 3e-3
    assert run.journal[-1]["learning_rate"] == 3e-3 * 0.5 ** len(said)


def test_going_back_gives_the_state_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose third update is poisoned once goes on as one that had half the learning rate from the start."""
    poisoned = iter([False, False, True])
    check = DivergenceGuard.check

    def once(self: DivergenceGuard, row: dict[str, float]) -> None:
        check(self, row | {"loss": float("nan")} if next(poisoned, False) else row)

    quiet = (
        "run.updates=6",
        "run.log_every=1",
        "schedule.start=4",
        "source.batch=4",
        "optimizer.final_learning_rate=1e-6",
    )
    slow = distil(
        tmp_path / "slow", "dsdi", *quiet, "optimizer.learning_rate=0.5e-3", "optimizer.final_learning_rate=0.5e-6"
    )
    monkeypatch.setattr(DivergenceGuard, "check", once)
    full = ("optimizer.learning_rate=1e-3", "optimizer.final_learning_rate=1e-6")
    back = distil(tmp_path / "back", "dsdi", *quiet, *full, "run.on_divergence=rollback")
    assert [row["loss"] for row in back.journal] == [row["loss"] for row in slow.journal]
    assert all(torch.equal(weight, slow.weights()[key]) for key, weight in back.weights().items())


def test_going_back_gives_a_critic_the_state_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights and moments, at half its learning rate, as above. Its loss has a limit, too."""
    poisoned = iter([False, False, True])
    check = DivergenceGuard.check

    def once(self: DivergenceGuard, row: dict[str, float]) -> None:
        check(self, row | {"critic_grad_norm": nan} if next(poisoned, False) else row)

    quiet = (
        *("run.updates=5", "run.log_every=1", "run.keep=9", "schedule.steps=4", "source.batch=3", "critic.warmup=0.3"),
        *("source.levels=[1, 2, 4]", "source.level_weights=[1, 1, 1]", "source.trajectories=8", "critic.updates=2"),
        f"source.folder={tmp_path / 'trajectories'}",
    )

    def rates(factor: float) -> list[str]:
        falling = {"optimizer": (1e-3, 1e-5), "critic.optimizer": (2e-3, 1e-4)}
        return [
            f"{table}.{key}={rate * factor}"
            for table, (first, last) in falling.items()
            for key, rate in (("learning_rate", first), ("final_learning_rate", last))
        ]

    slow = distil(tmp_path / "slow", "dmd", *quiet, *rates(0.5))
    monkeypatch.setattr(DivergenceGuard, "check", once)
    back = distil(tmp_path / "back", "dmd", *quiet, *rates(1), "run.on_divergence=rollback")
    assert [row["critic_loss"] for row in back.journal] == [row["critic_loss"] for row in slow.journal]
    one, other = (read_checkpoint(made.folder / "checkpoints/update-000005") for made in (slow, back))
    assert any("critic/optimizer.exp_avg." in key for key in one)
    assert [key for key, value in one.items() if not torch.equal(value, other[key])] == []
    guard = DivergenceGuard(RunTable(name="a", updates=99, loss_limit=4))
    for update in range(FIRST):
        check(guard, line(update, critic_loss=1.0, critic_grad_norm=1.0))
    with pytest.raises(Diverged, match=r"the critic's loss is 4\.1, more than 4 times .*lower critic\.optimizer"):
        check(guard, line(20, critic_loss=4.1, critic_grad_norm=1.0))


def test_it_gives_up(tmp_path: Path) -> None:
    hopeless = (
        *WILD,
        "run.on_divergence=rollback",
        "optimizer.learning_rate=1e30",
        "optimizer.final_learning_rate=1e30",
    )
    with pytest.raises(Diverged):
        distil(tmp_path, "dsdi", *hopeless)
    position = json.loads(next((tmp_path / "run/checkpoints").glob("*/position.json")).read_text(encoding="utf-8"))
    assert position["rollbacks"] == 5


def test_ctrl_c_is_remembered_when_the_run_goes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pressed in the update that turns out to be poisoned."""
    check = DivergenceGuard.check

    def poisoned(self: DivergenceGuard, row: dict[str, float]) -> None:
        if row["update"] == 3:
            signal.raise_signal(signal.SIGINT)
        check(self, row | {"loss": float("nan")} if row["update"] == 3 else row)

    monkeypatch.setattr(DivergenceGuard, "check", poisoned)
    with pytest.raises(RunInterrupted):
        distil(tmp_path, "dsdi", "run.updates=6", "run.log_every=1", "schedule.start=4", "run.on_divergence=rollback")
    assert Run(tmp_path / "run").journal == []


def test_the_best_weights_of_what_was_given_up_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes back behind the evaluation after update 2, which had the best score."""
    poisoned = iter([False, False, True])
    check = DivergenceGuard.check
    monkeypatch.setattr(
        DivergenceGuard, "check", lambda self, row: check(self, row | {"loss": nan} if next(poisoned, False) else row)
    )
    scores = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr(RunScores, "during", lambda *_: {"fd-pixels/steps-2": next(scores)})
    kept = ("evaluation.every=2", "evaluation.best=steps-2", "evaluation.samples=4")
    often = ("run.updates=4", "run.log_every=1", "run.on_divergence=rollback", "schedule.start=4")
    distil(tmp_path, "dsdi", *often, *kept, tables=MODEL + PLAIN + SCORED)
    with safe_open(tmp_path / "run/best.safetensors", "pt") as file:
        assert file.metadata()["value"] == "2.0"


def test_a_walk_that_begins_in_noise_does_not_run_away() -> None:
    """Of the noisy end alone a healthy network's x̂ is small, of the clean end it has the size of data."""
    guard = DivergenceGuard(RunTable(name="run", updates=1))
    for i in range(FIRST + 20):
        guard.check(line(i, x0_rms=0.01 if i < FIRST else 1.0))
    with pytest.raises(Diverged, match=r"the root mean square of x̂ is 4\.1, more than 4 times"):
        guard.check(line(99, x0_rms=4.1))
