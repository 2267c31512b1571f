"""The commands that make runs and look at them, on a tiny network with random weights."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import SMALL
from PIL import Image

from distillkit.cli.group import cli

CONFIG = """
preset = "dsdi"
[run]
name = "tiny"
updates = 3
[schedule]
start = 4
[data]
type = "digits"
[features]
type = "pixels"
[[metric]]
type = "fid"
[evaluation]
steps = [2]
samples = 20
guidance = 2.0
"""


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    config = folder / "tiny.toml"
    config.write_text(CONFIG + SMALL, encoding="utf-8")
    result = call("run", config, "--output", folder / "runs/tiny")
    assert result.exit_code == 0, result.output
    return folder / "runs/tiny"


def pixels(file: Path) -> Any:
    return np.asarray(Image.open(file))


def test_run_goes_to_runs_and_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_text(CONFIG + SMALL, encoding="utf-8")
    result = call("run", "my.toml", "--set", "run.name=other", "--set", "run.updates=1")
    assert result.exit_code == 0
    assert Path("runs/other/pipeline/model_index.json").is_file()
    # Nothing was recorded, so that there is no UI to name.
    assert result.stdout.splitlines()[-1] == "pipeline: runs/other/pipeline   samples: runs/other/samples"


def test_run_does_not_overwrite(run: Path) -> None:
    before = (run / "journal.jsonl").read_text(encoding="utf-8")
    result = call("run", run / "config.toml", "--output", run)
    assert result.exit_code == 2
    assert f"{run}: already holds a run; nothing was overwritten" in result.stderr
    assert (run / "journal.jsonl").read_text(encoding="utf-8") == before


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@pytest.mark.parametrize("due", ["run.checkpoint_every=2", "evaluation.every=2", "run.log_every=3"])
def test_run_that_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, due: str) -> None:
    """It is found before it is scored or kept."""

    def score(*_: object) -> None:
        raise AssertionError("a network that has diverged was scored")

    monkeypatch.setattr("distillkit.training.scoring.RunScores.during", score)
    config, folder = tmp_path / "tiny.toml", tmp_path / "run"
    config.write_text(CONFIG + SMALL, encoding="utf-8")
    wild = ["run.updates=7", "run.log_every=99", "optimizer.learning_rate=1e30", "optimizer.clip=0", due]
    result = call("run", config, "--output", folder, *(part for word in wild for part in ("--set", word)))
    assert result.exit_code == 2
    assert re.fullmatch(
        r"update 2: the loss is (inf|nan) and the gradient's norm \S+: the run has diverged; lower "
        r"optimizer\.learning_rate \(it was \S+e\+\d+ there\); no checkpoint was made before "
        r"\(run\.checkpoint_every\): begin anew in another folder\n",
        result.stderr,
    )
    journal = (folder / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line, parse_constant=no_constant)["update"] for line in journal] == [1]
    assert not list(folder.glob("checkpoints/*"))
    assert not (folder / "pipeline").exists()


def test_sample_writes_a_sheet(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "deep/grid.png"
    result = call("sample", run, "--steps", "2", "--count", "10", "--output", output)
    assert (result.exit_code, result.output) == (0, f"{output}: 10 samples in 2 steps\n")
    # Four to a row, so three rows, the last of which is half empty: white.
    height, width, _ = pixels(output).shape
    assert width > height
    assert (pixels(output)[-height // 4 :, -width // 3 :] == 255).all()


def test_sample_writes_png_whatever_the_file_is_called(run: Path, tmp_path: Path) -> None:
    assert call("sample", run, "--steps", "1", "--count", "1", "--output", tmp_path / "grid").exit_code == 0
    assert (tmp_path / "grid").read_bytes().startswith(b"\x89PNG")


def test_sample_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    result = call("sample", run, "--steps", "1", "--count", "1", "--output", tmp_path)
    assert (result.exit_code, result.output) == (
        2,
        f"{tmp_path}: is a folder, which is never replaced by a file: give another path\n",
    )


def test_sample_replaces_no_device(run: Path, tmp_path: Path) -> None:
    """Nor a pipe, nor what a link like /dev/stdout leads to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for output in (tmp_path / "pipe", tmp_path / "link"):
        result = call("sample", run, "--steps", "1", "--count", "1", "--output", output)
        message = f"{tmp_path}/pipe: is a pipe (FIFO), which is never replaced by a file: give another path\n"
        assert (result.exit_code, result.output) == (2, message)
    assert (tmp_path / "pipe").is_fifo()


def test_sample_depends_on_seed_guidance_and_classes_only(run: Path, tmp_path: Path) -> None:
    def draw(name: str, *options: str) -> Any:
        assert call("sample", run, "--steps", "1", "--count", "4", "--output", tmp_path / name, *options).exit_code == 0
        return pixels(tmp_path / name)

    first = draw("a.png")
    assert (draw("b.png") == first).all()
    assert (draw("c.png", "--guidance", "2") == first).all()  # the run's own
    assert (draw("d.png", "--class-labels", "0,1,2,3") == first).all()  # what it takes by itself
    assert (draw("e.png", "--seed", "1") != first).any()
    moved = shutil.copytree(run / "pipeline", tmp_path / "moved")
    assert call("sample", moved, "--steps", "1", "--count", "4", "--output", tmp_path / "h.png").exit_code == 0
    assert (pixels(tmp_path / "h.png") == first).all()  # the folder's own guidance
    scored = ("--features", "pixels", "--set", "data.type=digits", "--samples", "10", "--json")
    [row] = json.loads(call("evaluate", moved, "--steps", "1", *scored).stdout)
    assert "; guidance 2; " in row["protocol"]
    assert (draw("f.png", "--guidance", "8") != first).any()
    assert (draw("g.png", "--class-labels", "7") != first).any()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("3,10", "the model has the classes 0 to 9 (got 3,10)"),
        ("cat", "expected classes, as in 0,1,2 (got 'cat')"),
        ("-1", "expected classes, as in 0,1,2 (got '-1')"),
    ],
)
def test_sample_refuses_classes_that_are_not_there(run: Path, labels: str, message: str) -> None:
    result = call("sample", run, "--class-labels", labels)
    assert result.exit_code == 2
    assert f"Invalid value for --class-labels: {message}" in result.stderr


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_pipeline_that_is_not_there(tmp_path: Path, command: str) -> None:
    result = call(command, tmp_path / "no")
    assert result.exit_code == 2
    told = f"model.path: there is no folder {tmp_path}/no; give a local folder that diffusers saved"
    assert result.stderr == f"{tmp_path}/no: 1 error\n  {told}\n"


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_folder_that_is_no_pipeline(tmp_path: Path, command: str) -> None:
    result = call(command, tmp_path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{tmp_path}: 1 error\n  model.path: {tmp_path} is not a diffusers pipeline")


def test_evaluate_scores_a_run_as_the_run_does(run: Path) -> None:
    [row] = json.loads(call("evaluate", run, "--steps", "2", "--json").stdout)
    assert row["protocol"].endswith("20 samples; trailing from 999; seed 0; guidance 2; float32")
    [taken] = [
        row
        for row in json.loads((run / "scores.json").read_text(encoding="utf-8"))
        if (row["model"], row["steps"]) == ("student", 2)
    ]
    assert row["protocol"] == taken["protocol"]
    assert row["value"] == pytest.approx(taken["value"], rel=1e-4)


def test_the_sampler_is_the_pipelines_own(tmp_path: Path) -> None:
    """Inside a run and outside of any; `evaluation.sampler` names another."""
    config, folder = tmp_path / "tiny.toml", tmp_path / "run"
    text = CONFIG.replace("dsdi", "consistency").replace("start = 4", "steps = 4").replace("guidance = 2.0\n", "")
    config.write_text(text + SMALL, encoding="utf-8")
    assert call("run", config, "--output", folder).exit_code == 0
    [student] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert "; sampler consistency; seed" in student["protocol"]
    [row] = json.loads(call("evaluate", folder, "--steps", "2", "--json").stdout)
    assert (row["protocol"], row["value"]) == (student["protocol"], pytest.approx(student["value"], rel=1e-4))
    other = ["--set", "evaluation.sampler=ddim"]
    [ddim] = json.loads(call("evaluate", folder, "--steps", "2", *other, "--json").stdout)
    assert ddim["protocol"] == student["protocol"].replace("; sampler consistency", "")
    assert ddim["value"] != pytest.approx(student["value"], rel=1e-3)
    shutil.copytree(folder / "pipeline", tmp_path / "moved")
    for place, png in ((folder, "inside.png"), (tmp_path / "moved", "outside.png")):
        assert call("sample", place, "--steps", "2", "--count", "4", "--output", tmp_path / png).exit_code == 0
    assert (pixels(tmp_path / "inside.png") == pixels(tmp_path / "outside.png")).all()


def test_evaluate_prints_a_table(run: Path) -> None:
    result = call("evaluate", run / "pipeline", "--steps", "1,2", "--samples", "10")
    assert result.exit_code == 0
    assert "fd-pixels" in result.stdout
    assert "10 samples" in result.stdout


def test_evaluate_against_a_folder_of_pictures(run: Path, tmp_path: Path) -> None:
    """A reference of its own, which leaves the run's data alone, and a pipeline outside of any run."""
    pipeline = tmp_path / "moved"
    (run / "pipeline").rename(pipeline)
    try:
        for i in range(12):
            noise = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
            (tmp_path / "real").mkdir(exist_ok=True)
            Image.fromarray(noise).save(tmp_path / f"real/{i}.png")
        options = ["--features", "pixels", "--metric", "kid", "--samples", "10", "--reference", tmp_path / "real"]
        [row] = json.loads(call("evaluate", pipeline, "--steps", "2", *options, "--json").stdout)
    finally:
        pipeline.rename(run / "pipeline")
    assert row["metric"] == "kd-pixels"
    assert "12 real" in row["protocol"]


def test_evaluate_tells_all_mistakes(run: Path) -> None:
    result = call("evaluate", run, "--features", "pixel", "--metric", "fit", "--set", "evaluation.batch=0")
    assert result.exit_code == 2
    keys = [line.partition(":")[0].strip() for line in result.stderr.splitlines()[1:]]
    assert keys == ["evaluation.batch", "features.type", "metric[0].type"]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("run.updates=3", "run: is not a table of scoring"),
        ("evalution.batch=3", "evalution: is not a table of scoring"),
    ],
)
def test_evaluate_takes_no_tables_but_those_of_scoring(run: Path, assignment: str, message: str) -> None:
    result = call("evaluate", run, "--set", assignment)
    known = "those are: grid, evaluation, engine, data, features, metric"
    hint = " — did you mean 'evaluation'?" * assignment.startswith("evalution")
    assert (result.exit_code, result.stderr) == (2, f"{run}/pipeline: 1 error\n  {message}; {known}{hint}\n")


def test_evaluate_on_another_grid(run: Path) -> None:
    def score(*options: str) -> Any:
        [row] = json.loads(call("evaluate", run, "--steps", "2", *options, "--json").stdout)
        return row

    own, other = score(), score("--set", "grid.start=499")
    assert other["protocol"] == own["protocol"].replace("trailing from 999", "trailing from 499")
    assert other["protocol"] != own["protocol"]
    assert other["value"] != own["value"]


def test_evaluate_against_pictures_of_another_size(run: Path) -> None:
    options = ["--reference", run / "samples", "--set", "data.size=16"]
    result = call("evaluate", run, *options)
    assert (result.exit_code, result.stderr) == (
        2,
        "data: the images of 'images' make samples of (1, 16, 16) (channels, height, width), and the model takes "
        "(1, 8, 8); give it images of its own size\n",
    )


def test_evaluate_scores_a_number_of_steps_once(run: Path) -> None:
    rows = json.loads(call("evaluate", run, "--steps", "4,2,4", "--json").stdout)
    assert [row["steps"] for row in rows] == [4, 2]


@pytest.mark.parametrize("steps", ["", "2,x", "0,2"])
def test_evaluate_wants_whole_numbers_of_steps(run: Path, steps: str) -> None:
    result = call("evaluate", run, "--steps", steps)
    assert result.exit_code == 2
    assert f"expected whole numbers from 1, as in 2,4,8 (got '{steps}')" in result.stderr


def scores(folder: Path, protocol: str, *rows: tuple[str, int, float]) -> Path:
    """A run's folder with scores only."""
    folder.mkdir()
    table = [
        {"model": model, "steps": steps, "metric": "fid", "value": value, "samples": 50, "protocol": protocol}
        for model, steps, value in rows
    ]
    (folder / "scores.json").write_text(json.dumps(table), encoding="utf-8")
    return folder


def test_compare_shows_runs_side_by_side(tmp_path: Path) -> None:
    a = scores(tmp_path / "a", "p; 50 samples", ("teacher", 2, 9.0), ("teacher", 16, 3.0), ("student", 2, 4.5))
    b = scores(tmp_path / "b", "p; 50 samples", ("student", 2, 4.25), ("student", 4, 2.0))
    lines = [line.split() for line in call("compare", a, b).stdout.splitlines()]
    assert lines[0] == ["fid,", "50", "samples"]
    assert lines[1] == ["run", "model", "2", "steps", "4", "steps", "16", "steps"]
    assert lines[3:6] == [[str(a), "teacher", "9", "3"], [str(a), "student", "4.5"], [str(b), "student", "4.25", "2"]]


def test_compare_as_json(tmp_path: Path) -> None:
    a = scores(tmp_path / "a", "p", ("student", 2, 4.5))
    [row] = json.loads(call("compare", a, "--json").stdout)
    assert (row["run"], row["value"]) == (str(a), 4.5)


def test_compare_refuses_mixed_protocols(tmp_path: Path) -> None:
    a = scores(tmp_path / "a", "p; 50 samples; seed 0", ("student", 2, 4.5))
    b = scores(tmp_path / "b", "p; 60 samples; seed 0", ("student", 2, 4.5))
    result = call("compare", a, b)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"fid: {a} and {b} were scored in different ways and do not compare:\n  {a}: 50 samples\n  {b}: 60 samples\n"
        "score one of them again with `distillkit evaluate` as the other was, or compare other runs\n"
    )


def test_compare_wants_runs_that_are_done(tmp_path: Path) -> None:
    result = call("compare", tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path}: there is no scores.json; give the folder of a finished run\n"


@pytest.mark.parametrize("text", ['{"a": 1}', "[1]", '[{"model": 1}]'])
def test_compare_wants_scores(tmp_path: Path, text: str) -> None:
    file = tmp_path / "scores.json"
    file.write_text(text, encoding="utf-8")
    result = call("compare", tmp_path)
    assert (result.exit_code, result.stderr) == (
        2,
        f"{file}: is damaged: expected a list of rows, each with model, steps, metric, value, protocol; get it anew, "
        "or score the pipeline with distillkit evaluate\n",
    )


def test_compare_wants_json(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    for text in ("[" * 100_000, "{"):
        file.write_text(text, encoding="utf-8")
        result = call("compare", tmp_path)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"{file}: cannot be read as JSON (")


def test_ui_of_a_run_that_recorded_nothing(run: Path) -> None:
    result = call("ui", run)
    assert result.exit_code == 2
    assert result.stderr == "the tracker 'none' has no UI\n"


def test_ui_of_a_store_that_is_not_there(tmp_path: Path) -> None:
    result = call("ui", "--store", f"sqlite:///{tmp_path}/mlflow.db")
    assert result.exit_code == 2
    assert f"no run was recorded in sqlite:///{tmp_path}/mlflow.db yet" in result.stderr


def test_ctrl_c_stops_with_one_line(tmp_path: Path) -> None:
    config, folder = tmp_path / "tiny.toml", tmp_path / "run"
    config.write_text(CONFIG + SMALL, encoding="utf-8")
    command = [sys.executable, "-m", "distillkit", "run", str(config), "--output", str(folder)]
    command += ["--set", "run.updates=100000", "--set", "run.log_every=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (folder / "journal.jsonl").is_file() or not (folder / "journal.jsonl").read_text(encoding="utf-8"):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.fullmatch(r"stopped: after update \d+ of 100000; go on with --resume\n", errors)
    # What was written is readable, and there is a checkpoint of it.
    updates = len((folder / "journal.jsonl").read_text(encoding="utf-8").splitlines())
    assert list((folder / "checkpoints").iterdir()) == [folder / f"checkpoints/update-{updates:06d}"]
