"""The convergence schedule: when a stage is over, on which score, and that a resumed run decides alike."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL, ConfigFile
from distillkit_schedules.schedules import Convergence, Halving
from helpers.digits import MODEL, PLAIN, SCORED, Run, distil
from pydantic import ValidationError

from distillkit.config import make_plan, read_config, series
from distillkit.errors import ConfigError
from distillkit.interfaces import Stage


def convergence(**options: object) -> Convergence:
    return Convergence(Convergence.Options.model_validate(options))


def one(steps: int) -> int:
    return 1


# --- when a stage is over --------------------------------------------------------------------------------------------


def test_over_when_the_newest_scores_are_no_better_than_the_best_before() -> None:
    """By brute force over all short series: patience counts the evaluations since the last new best."""
    stage = Stage(8, 100)
    for length in range(7):
        for scores in itertools.product((1.0, 2.0, 3.0), repeat=length):
            best, since = float("inf"), 0
            for score in scores:
                best, since = (score, 0) if score < best else (best, since + 1)
            for patience in (1, 2, 3):
                assert convergence(patience=patience).is_over(stage, 50, scores) == (since >= patience), scores


def test_minimum() -> None:
    schedule, stage, flat = convergence(patience=1, minimum=20), Stage(8, 100), [2.0, 2.0, 2.0]
    assert [schedule.is_over(stage, done, flat) for done in (0, 19, 20, 21)] == [False, False, True, True]


def test_maximum_is_an_equal_share_or_less() -> None:
    assert convergence().plan(600, one) == Halving(Halving.Options()).plan(600, one)
    assert [stage.updates for stage in convergence(start=8).plan(300, one)] == [100] * 3
    assert [stage.updates for stage in convergence(start=8, maximum=60).plan(300, one)] == [60] * 3
    assert [stage.updates for stage in convergence(start=8, maximum=101).plan(300, one)] == [100] * 3
    with pytest.raises(ValidationError, match="minimum = 9 must not be above maximum = 8"):
        convergence(minimum=9, maximum=8)


# --- which score -----------------------------------------------------------------------------------------------------

HEAD = """preset = "dsdi"
[run]
updates = 90
[schedule]
type = "convergence"
start = 8
{schedule}
[features]
type = "fashion"
[[metric]]
type = "inception-score"
[[metric]]
type = "fid"
[evaluation]
every = {every}
steps = {steps}
"""
TAKEN = {"is-fashion/steps-1": 1.5, "is-fashion/steps-4": 4.5, "fd-fashion/steps-1": 10.0, "fd-fashion/steps-4": 40.0}


def written(schedule: str = "", every: int = 5, steps: str = "[1, 2, 4]") -> str:
    return HEAD.format(schedule=schedule, every=every, steps=steps)


@pytest.mark.parametrize(
    ("metric", "stage", "expected"),
    [
        # The first metric at the student's own steps; of inception scores higher is better.
        ("", 0, -4.5),
        ("", 2, -1.5),
        ('metric = "fd-fashion/steps-4"', 2, 40.0),
        ('metric = "steps-1"', 0, -1.5),
    ],
)
def test_score_that_is_watched(config: ConfigFile, metric: str, stage: int, expected: float) -> None:
    settings = read_config(config.write(written(metric))).phases[0].components()
    planned = make_plan(settings)[stage]
    assert series(settings, planned, [TAKEN, TAKEN]) == [expected, expected]


def test_other_schedules_watch_none(config: ConfigFile) -> None:
    text = written().replace('type = "convergence"', 'type = "linear"')
    settings = read_config(config.write(text)).phases[0].components()
    assert series(settings, make_plan(settings)[0], [TAKEN]) == []


NAMES = "is-fashion/steps-1, is-fashion/steps-2, fd-fashion/steps-1, fd-fashion/steps-2"
MISTAKES = {
    written(every=0): "evaluation.every: must be at least 1: the schedule 'convergence' watches a score",
    written(steps="[1, 2]"): (
        f"schedule: 'convergence' watches the score 'steps-4', which the run does not take; it takes: {NAMES}"
        " (see evaluation.steps and [[metric]])"
    ),
    written('metric = "fid/steps-2"', steps="[1, 2]"): (
        f"schedule: 'convergence' watches the score 'fid/steps-2', which the run does not take; it takes: {NAMES}"
        " (see evaluation.steps and [[metric]])"
    ),
    written().partition("[features]")[0] + "[evaluation]\nevery = 5\n": (
        "schedule: 'convergence' watches the score 'steps-4', which the run does not take; it takes: none"
        " (see evaluation.steps and [[metric]])"
    ),
    written("patience = 0"): "schedule.patience: must be at least 1 (got 0)",
    written("minimum = 9\nmaximum = 8"): "schedule: minimum = 9 must not be above maximum = 8",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes(config: ConfigFile, text: str) -> None:
    path = config.write(text, SMALL)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert str(caught.value) == f"{path}: 1 error\n  {MISTAKES[text]}"


# --- runs ------------------------------------------------------------------------------------------------------------

RUN = ["run.updates=60", "source.batch=2", "schedule.type='convergence'", "schedule.start=8", "schedule.patience=2"]
RUN += ["evaluation.every=2", "evaluation.every_samples=16", "evaluation.samples=16", "evaluation.steps=[1, 2, 4]"]
RUN += ["optimizer.learning_rate=2e-3", "run.checkpoint_every=1", "run.keep=99", "teacher.type='frozen'"]


def stages(run: Run) -> list[int]:
    """Updates of each stage."""
    return [len([*lines]) for _, lines in itertools.groupby(run.journal, lambda line: line["stage"])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return distil(tmp_path_factory.mktemp("whole"), "dsdi", *RUN, tables=MODEL + PLAIN + SCORED)


def test_stages_end_when_their_own_score_says(whole: Run) -> None:
    """Told from the curves alone."""
    curves = [json.loads(line) for line in (whole.folder / "curves.jsonl").read_text(encoding="utf-8").splitlines()]
    found, update = [], 0
    for steps in (4, 2, 1):
        best, since, began = float("inf"), 0, update
        while update < began + 20 and since < 2:
            update += 1
            for row in curves:
                if row["update"] == update:
                    score = row["scores"][f"fd-pixels/steps-{steps}"]
                    best, since = (score, 0) if score < best else (best, since + 1)
        found.append(update - began)
    assert stages(whole) == found
    # One was cut short, or there is nothing to see.
    assert min(found) < 20
    assert len(whole.journal) == sum(found) < 60


def test_frozen_network_ends_every_stage_as_early_as_it_may(tmp_path: Path) -> None:
    """A score that stays: the first evaluation is the best, and patience is up two later, but for the minimum."""
    options = [*RUN, "optimizer.learning_rate=1e-30", "optimizer.final_learning_rate=1e-30", "schedule.minimum=7"]
    run = distil(tmp_path, "dsdi", *options, tables=MODEL + PLAIN + SCORED)
    assert stages(run) == [7, 7, 7]
    # Evaluations are made at even updates of the run, not of a stage.
    assert [json.loads(line)["update"] for line in (run.folder / "curves.jsonl").read_text().splitlines()] == [
        *range(2, 22, 2)
    ]


def timeless(run: Run) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.journal]


@pytest.mark.parametrize("broken_off", [False, True])
def test_resumed_run_decides_alike(whole: Run, tmp_path: Path, broken_off: bool) -> None:
    """From between two evaluations, in the first stage and the second; also where the user broke one off."""
    first, last = stages(whole)[0], len(whole.journal)
    for update in (first + 2 - first % 2,) if broken_off else (3, first + 3):
        folder = tmp_path / str(update)
        shutil.copytree(whole.folder, folder / "run")
        for later in range(update + 1, last + 1):
            shutil.rmtree(folder / f"run/checkpoints/update-{later:06d}")
        if broken_off:
            file = folder / f"run/checkpoints/update-{update:06d}/position.json"
            position = json.loads(file.read_text(encoding="utf-8"))
            assert position["evaluated"] == update
            position["evaluated"] -= 2
            del position["scores"][-1]
            file.write_text(json.dumps(position), encoding="utf-8")
        resumed = distil(folder, "dsdi", *RUN, tables=MODEL + PLAIN + SCORED, resume=True)
        assert timeless(resumed) == timeless(whole)
        assert (resumed.folder / "curves.jsonl").read_text() == (whole.folder / "curves.jsonl").read_text()
        assert all(torch.equal(weight, whole.weights()[key]) for key, weight in resumed.weights().items())
