"""The best weights of a run are kept, scored and exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.digits import MODEL, PLAIN, SCORED, Run, distil, read_checkpoint, settings
from safetensors import safe_open

from distillkit.config import Config
from distillkit.errors import ConfigError
from distillkit.training.run import run
from distillkit.training.scoring import BestScore, BestWeights

TABLES = MODEL + PLAIN + SCORED
# A learning rate at which the scores get better, then worse.
RUN = (
    *("run.updates=16", "run.checkpoint_every=4", "run.keep=99", "schedule.start=4", "source.batch=16"),
    *("optimizer.learning_rate=3e-3", "ema.decay=0.5", "evaluation.every=4", "evaluation.every_samples=60"),
    *("evaluation.samples=60", "evaluation.teacher=false", "run.x0_limit=100"),
)


def kept(run: Run) -> dict[str, str]:
    with safe_open(run.folder / "best.safetensors", "pt") as file:
        said = file.metadata()
        assert isinstance(said, dict)
        return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return distil(tmp_path_factory.mktemp("best"), "dsdi", *RUN, "evaluation.best=steps-2", tables=TABLES)


def test_the_best_of_all_evaluations_is_exported(whole: Run) -> None:
    """As many pictures are scored at the end as on the way here, so that the scores can be compared."""
    lines = (whole.folder / "curves.jsonl").read_text(encoding="utf-8").splitlines()
    taken = {row["update"]: row["scores"]["fd-pixels/steps-2"] for row in map(json.loads, lines)}
    assert sorted(taken) == [4, 8, 12, 16], "the last weights are evaluated too"
    best = min(taken, key=lambda update: taken[update])
    assert best < 16, "a test in which the last weights are the best would show nothing"
    assert kept(whole) == {"update": str(best), "score": "fd-pixels/steps-2", "value": repr(taken[best])}
    assert whole.score("student", 2) == taken[best]
    averages = read_checkpoint(whole.folder / f"checkpoints/update-{best:06d}")
    for key, weight in whole.weights().items():
        assert torch.equal(weight, averages[f"engine/average.{key}"])


def test_without_it_the_last_weights_are(whole: Run, tmp_path: Path) -> None:
    last = distil(tmp_path, "dsdi", *RUN, tables=TABLES)
    assert last.journal[-1]["loss"] == whole.journal[-1]["loss"]
    assert not (last.folder / "best.safetensors").exists()
    averages = read_checkpoint(last.folder / "checkpoints/update-000016")
    assert all(torch.equal(weight, averages[f"engine/average.{key}"]) for key, weight in last.weights().items())


@pytest.mark.parametrize("update", [4, 12])
def test_a_resumed_run_keeps_the_same(whole: Run, tmp_path: Path, update: int) -> None:
    shutil.copytree(whole.folder, tmp_path / "run")
    for later in range(update + 4, 17, 4):
        shutil.rmtree(tmp_path / f"run/checkpoints/update-{later:06d}")
    shutil.rmtree(tmp_path / "run/pipeline")
    resumed = distil(tmp_path, "dsdi", *RUN, "evaluation.best=steps-2", tables=TABLES, resume=True)
    assert kept(resumed) == kept(whole)
    assert all(torch.equal(weight, resumed.weights()[key]) for key, weight in whole.weights().items())


def test_higher_may_be_better_and_not_a_number_never_is(tmp_path: Path) -> None:
    from distillkit_metrics.metrics import FrechetDistance

    from distillkit.training.assemble import load, prepare

    parts = load(settings(tmp_path, "dsdi", *RUN, "evaluation.best=steps-2", tables=TABLES).components())
    prepare(parts)
    name = "fd-pixels/steps-2"
    lower = BestWeights(tmp_path / "lower.safetensors", parts, name)
    assert lower.score is None
    for update, value in enumerate([float("nan"), 3.0, 5.0, 3.0, 2.0, float("nan")]):
        lower.consider(update, {name: value})
    assert lower.score == BestScore(4, name, 2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrechetDistance, "higher_is_better", True)
        higher = BestWeights(tmp_path / "higher.safetensors", parts, name)
    for update, value in enumerate([3.0, 5.0, 2.0, 5.0]):
        higher.consider(update, {name: value})
    assert higher.score == BestScore(1, name, 5.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["evaluation.best=steps-2"],
            "evaluation.every: must be at least 1: evaluation.best needs scores during the run",
        ),
        (
            ["evaluation.best=fid/steps-2", "evaluation.every=4"],
            "evaluation.best: 'fid/steps-2' is no score that the run takes; it takes: fd-pixels/steps-2 (see",
        ),
    ],
)
def test_a_score_that_is_not_taken(tmp_path: Path, given: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(Config.of(settings(tmp_path, "dsdi", *given, tables=TABLES)), tmp_path / "run")
    assert said in str(caught.value)
