"""`distillkit plan --measure`: what a run will take here."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ConfigFile
from helpers.digits import two_phases

from distillkit.cli.group import cli
from distillkit.config import read_config
from distillkit.noise import Predictor
from distillkit.training.assemble import load, prepare

SLEEP = 0.1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that take at least SLEEP seconds an evaluation."""
    forward = Predictor.__call__

    def slowly(self: Predictor, *arguments: Any) -> Any:
        time.sleep(SLEEP)
        return forward(self, *arguments)

    monkeypatch.setattr(Predictor, "__call__", slowly)


def call(*words: str | Path) -> str:
    result = CliRunner().invoke(cli, ["plan", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.mark.usefixtures("slow")
def test_every_phase_is_timed_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = two_phases(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = json.loads(call(file, "--measure", "--json"))
    assert [*tmp_path.iterdir()] == [file]

    plan = json.loads(call(file, "--json"))
    assert [{key: value for key, value in stage.items() if key != "seconds"} for stage in found["stages"]] == plan[
        "stages"
    ]
    # DSDI evaluates twice in an update, TSD three times: each stage takes its updates' time, whoever else is at work.
    for stage in found["stages"]:
        assert stage["seconds"] >= SLEEP * stage["evaluations"]
    measured = found["measured"]
    assert measured["update_seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]), abs=0.01)
    # The teacher and the student of both phases, 5 pictures in 2 steps each: one batch. A margin for the clock.
    assert measured["scoring_seconds"] > 0.5 * SLEEP * 2 * 4
    assert measured["device"] == "cpu"
    # More than torch alone takes, less than any machine has.
    assert 1e8 < measured["memory_bytes"] < 1e12


@pytest.mark.usefixtures("slow")
def test_scores_during_the_run_are_counted(tmp_path: Path) -> None:
    sets = ["--set", "evaluation.every=1", "--set", "evaluation.every_samples=50"]
    found = json.loads(call(two_phases(tmp_path), "--measure", "--json", *sets))
    # 3 and 2 evaluations before the last update, of 50 pictures in batches of 5, in 2 steps.
    assert found["measured"]["scoring_seconds"] > 0.5 * SLEEP * 2 * 10 * 5


CACHED = """
preset = "luhman-cached"
[run]
updates = 5
[schedule]
steps = 4
[source]
batch = 2
trajectories = 12
shard = 4
"""


@pytest.mark.usefixtures("slow")
def test_what_is_made_before_the_updates_is_timed_and_not_kept(
    config: ConfigFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 batches of 4 steps each; none where a run has made them."""
    monkeypatch.chdir(tmp_path)
    path = config.write(CACHED)
    found = json.loads(call(path, "--measure", "--json"))
    assert [*tmp_path.iterdir()] == [path]
    assert found["before"] == 12
    assert found["measured"]["before_seconds"] >= 12 * SLEEP
    assert found["stages"][0]["seconds"] >= 5 * SLEEP
    last = call(path, "--measure").splitlines()
    assert last[2].split()[:3] == ["before", "0", "12"]
    assert " before the updates, " in last[-1]
    parts = load(read_config(path).phases[0].components())
    for part in prepare(parts):
        part()
    found = json.loads(call(path, "--measure", "--json"))
    assert (found["before"], found["measured"]["before_seconds"]) == (12, 0)


def test_table_has_the_time_and_the_memory(tmp_path: Path) -> None:
    lines = call(two_phases(tmp_path), "--measure").splitlines()
    assert " ".join(lines[0].split()) == "phase stage steps N student's steps updates evaluations time"
    assert lines[-1].startswith("expected on cpu: 0:0")
    assert lines[-1].endswith(" GB of memory")
