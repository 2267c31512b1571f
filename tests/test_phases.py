"""Configs of several phases, and the runs that they make."""

from __future__ import annotations

import gc
import json
import shutil
import signal
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DModel
from helpers.digits import FEW, MODEL, PLAIN, TEACHER, TWO_PHASES, Run, two_phases
from safetensors.torch import load_file

from distillkit.cli.group import cli
from distillkit.config import Config, read_config
from distillkit.errors import ConfigError, DistillkitError, RunInterrupted
from distillkit.interfaces import JumpBatch
from distillkit.training import run as runs
from distillkit.training.run import run
from distillkit.training.step import DistillStep
from distillkit.training.train import Training


def read(folder: Path, *assignments: str, text: str = TWO_PHASES) -> Config:
    return read_config(two_phases(folder, text), assignments)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "pipeline/unet/diffusion_pytorch_model.safetensors")


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_phases_lay_their_tables_over_the_files_over_their_presets(tmp_path: Path) -> None:
    first, second = read(tmp_path, "source.batch=2", "phase[1].run.updates=5").phases
    assert (first.run.method, first.run.name, first.run.updates) == ("dsdi", "two-1", 4)
    assert (second.run.method, second.run.name, second.run.updates) == ("tsd", "two-2", 5)
    assert (first.tables["source"]["batch"], second.tables["source"]["batch"]) == (2, 2)
    assert first.tables["teacher"] == {"type": "self"}
    assert second.tables["schedule"] == {"type": "halving", "start": 4, "stop": 2, "cycles": 1}


def test_a_config_without_phase_tables_has_one_phase(tmp_path: Path) -> None:
    text = 'preset = "dsdi"\n[run]\nupdates = 4\n' + MODEL + PLAIN
    found = read(tmp_path, text=text)
    [phase] = found.phases
    assert (found.name, phase.run.name) == ("two", "two")
    assert found.tables == phase.tables
    # So has one with a single [[phase]], and it is the same config.
    alone = read(tmp_path, text='[[phase]]\npreset = "dsdi"\nrun = { updates = 4 }\n' + MODEL + PLAIN)
    assert alone == found


def test_settings_are_data_and_components_are_new_each_time(tmp_path: Path) -> None:
    [first, _] = read(tmp_path).phases
    one, other = first.components(), first.components()
    assert one.model is not other.model
    assert one.tracker is not other.tracker
    assert one.model.options is other.model.options
    assert first.components().tables is first.tables


def test_the_resolved_config_reads_as_the_same_phases(tmp_path: Path) -> None:
    import tomli_w

    first = read(tmp_path)
    again = read(tmp_path, text=tomli_w.dumps(first.tables))
    assert again.tables == first.tables
    assert [phase.tables for phase in again.phases] == [phase.tables for phase in first.phases]


def test_mistakes_name_the_phase(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, "phase[0].schedule.strt=2", "phase[1].run.updates=0", "phase[1].model.type=fashion")
    assert [str(mistake) for mistake in error.value.mistakes] == [
        "phase[1].model: must be left out: it is the result of the phase before",
        "phase[0].schedule.strt: unknown option of 'halving'; it has: start, stop, cycles — did you mean 'start'?",
        "phase[1].run.updates: must be at least 1 (got 0)",
    ]
    with pytest.raises(
        ConfigError, match=r"^.*1 error\n  phase\[1\]\.tracker: must be the first phase's: all phases are one record"
    ):
        read(tmp_path, "phase[1].tracker.type=mlflow")
    with pytest.raises(ConfigError, match=r"phase: must be a list of tables: write \[\[phase\]\]"):
        read(tmp_path, text='[phase]\npreset = "dsdi"\n')


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("phase[0].run.updates", "--set: expected key=value, as in run.updates=100 (got 'phase[0].run.updates')"),
        ("run.name", "--set: expected key=value, as in run.updates=100 (got 'run.name')"),
        ("phase[0]=5", "--set: phase[…] is a table: name one of its keys, as in phase[0].run.updates=100"),
    ],
)
def test_assignments_that_are_none(tmp_path: Path, assignment: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, assignment)
    assert [*dict.fromkeys(map(str, error.value.mistakes))] == [said]


def test_phases_that_do_not_fit_are_reported_before_the_first_begins(tmp_path: Path) -> None:
    sets = ["phase[1].schedule.start=2048", "phase[1].schedule.stop=2048"]
    with pytest.raises(
        ConfigError, match=r"phase\[1\].schedule: a grid of 2048 steps needs 1 to 1000 steps: the noise "
    ):
        read(tmp_path, *sets)
    with pytest.raises(ConfigError) as error:
        run(read(tmp_path, "phase[1].teacher.type=guided"), tmp_path / "run")
    assert [str(mistake).partition(",")[0] for mistake in error.value.mistakes] == [
        "phase[1].model.guidance_input: is required: the teacher 'guided' teaches the network to take the guidance "
        "scale as an input; give the lowest and the highest scale",
    ]
    assert not (tmp_path / "run").exists()


def test_a_changed_phase_is_named(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(DistillkitError, match=r"has changed since the run began, in phase\[1\]\.run\.updates;"):
        run(read(tmp_path, "phase[1].run.updates=9"), whole, resume=True)


def test_a_run_stopped_in_a_later_phase_resumes_elsewhere(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by Ctrl-C in an update of the second phase, and moved."""
    forward = DistillStep.forward
    calls = iter(range(99))

    def interrupted(self: DistillStep, jumps: JumpBatch, update: int) -> Any:
        if next(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return forward(self, jumps, update)

    monkeypatch.setattr(DistillStep, "forward", interrupted)
    with pytest.raises(RunInterrupted):
        run(read(tmp_path), tmp_path / "run")
    assert len(Run(tmp_path / "run/phases/2").journal) == 2
    (tmp_path / "run").rename(tmp_path / "moved")
    run(read(tmp_path), tmp_path / "moved", resume=True)
    assert equal(tmp_path / "moved", whole)


@pytest.mark.parametrize("allowed", ["phase[1]", "phase[1].optimizer", "phase[1].optimizer.learning_rate", "phase"])
def test_a_phase_that_is_stopped_may_change(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    """In a key, a table, or all of it; run and phase have the same config afterwards."""
    shutil.copytree(whole, tmp_path / "run")
    for made in ("pipeline", "phases/2/pipeline"):
        shutil.rmtree(tmp_path / "run" / made)
    monkeypatch.setattr(Training, "run", lambda self: None)
    changed = read(tmp_path, "phase[1].optimizer.learning_rate=2e-6")
    run(changed, tmp_path / "run", resume=True, allow=[allowed])
    written = tomllib.loads((tmp_path / "run/phases/2/config.toml").read_text(encoding="utf-8"))
    assert written["optimizer"]["learning_rate"] == 2e-6
    assert tomllib.loads((tmp_path / "run/config.toml").read_text(encoding="utf-8")) == changed.tables


def test_what_a_phase_loads_is_gone_when_it_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runs.run_phase
    networks: list[int] = []

    def count(*arguments: Any, **keywords: Any) -> list[dict[str, Any]]:
        gc.collect()
        networks.append(sum(type(found) is UNet2DModel for found in gc.get_objects()))
        return real(*arguments, **keywords)

    monkeypatch.setattr(runs, "run_phase", count)
    run(read(tmp_path), tmp_path / "run")
    assert networks[1] == networks[0]


def test_plan_shows_phases(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["plan", str(two_phases(tmp_path)), "--json"])
    assert json.loads(result.stdout) == {
        "updates": 7,
        "stages": [
            {"phase": 1, "steps": 8, "updates": 2, "evaluations": 4},
            {"phase": 1, "steps": 4, "updates": 2, "evaluations": 4},
            {"phase": 2, "steps": 4, "updates": 2, "evaluations": 6},
            {"phase": 2, "steps": 2, "updates": 1, "evaluations": 3},
        ],
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two phases."""
    folder = tmp_path_factory.mktemp("phases")
    run(read(folder), folder / "run")
    return folder / "run"


def test_a_phase_begins_with_the_one_befores_result(whole: Path, tmp_path: Path) -> None:
    text = 'preset = "tsd"\n[run]\nupdates = 3\n[schedule]\nstart = 4\n' + FEW + MODEL + PLAIN[: PLAIN.index("[eval")]
    text = text.replace(str(TEACHER), str(whole / "phases/1/pipeline")) + '[tracker]\ntype = "none"\n'
    run(read_config(two_phases(tmp_path, text)), tmp_path / "alone")
    assert equal(tmp_path / "alone", whole)
    assert not equal(whole / "phases/1", whole)


def test_what_a_run_of_two_phases_leaves(whole: Path) -> None:
    lines = Run(whole).journal
    assert [(line["phase"], line["update"]) for line in lines] == [(1, i) for i in (1, 2, 3, 4)] + [
        (2, 1),
        (2, 2),
        (2, 3),
    ]
    rows: list[dict[str, Any]] = json.loads((whole / "scores.json").read_text(encoding="utf-8"))
    assert [(row["model"], row["steps"]) for row in rows] == [("teacher", 2), ("student", 2)]
    assert rows[0]["value"] == Run(whole / "phases/1").score("teacher", 2)
    assert rows[1]["value"] == Run(whole / "phases/2").score("student", 2)
    # What one phase leaves is scored the same by the next.
    assert Run(whole / "phases/2").score("teacher", 2) == Run(whole / "phases/1").score("student", 2)
    assert (whole / "samples/steps-002.png").is_file()
    result = CliRunner().invoke(cli, ["evaluate", str(whole), "--steps", "2", "--json"])
    assert json.loads(result.stdout)[0]["value"] == pytest.approx(rows[1]["value"], rel=1e-4)


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_run_stopped_between_phases_resumes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: int
) -> None:
    """Stopped at the boundary behind a phase."""
    real = runs.run_phase

    def once(*arguments: Any, **keywords: Any) -> list[dict[str, Any]]:
        rows = real(*arguments, **keywords)
        if arguments[1].name == str(stopped):
            raise RunInterrupted
        return rows

    monkeypatch.setattr(runs, "run_phase", once)
    with pytest.raises(RunInterrupted):
        run(read(tmp_path), tmp_path / "run")
    monkeypatch.setattr(runs, "run_phase", real)
    first = (tmp_path / "run/phases/1/journal.jsonl").stat().st_mtime_ns
    run(read(tmp_path), tmp_path / "run", resume=True)
    assert (tmp_path / "run/phases/1/journal.jsonl").stat().st_mtime_ns == first
    assert equal(tmp_path / "run", whole)
