"""docs/plugins.md, put together as its reader would, installed and run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.environments import Environment, call, make_environment
from safetensors.numpy import load_file

from distillkit import hookspecs
from distillkit.registry import KINDS

PAGE = Path(__file__).parents[1] / "docs/plugins.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The page's files, each named by its first line, and the package installed."""
    folder = tmp_path_factory.mktemp("docs")
    for block in blocks("python") + blocks("toml"):
        file = folder / block.partition("\n")[0].removeprefix("# ")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block, encoding="utf-8")
    return make_environment(folder, folder / "my-parts")


def test_every_kind_is_there(environment: Environment) -> None:
    found = json.loads(environment.distillkit("plugins", "--json").stdout)
    assert found["broken"] == []
    assert {row["kind"] for row in found["components"] if row["package"] == "my-parts"} == {*KINDS, "preset"}


@pytest.fixture(scope="module")
def run(environment: Environment) -> Path:
    """The run of the page's config, with a checkpoint between two of the teacher's renewals."""
    done = environment.distillkit("run", "my.toml", *OFTEN)
    assert done.returncode == 0, done.stderr
    return environment.folder / "runs/my"


OFTEN = ("--set", "run.checkpoint_every=5", "--set", "run.keep=2")


def test_its_config_runs(run: Path) -> None:
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    # Equal shares; two evaluations of the teacher's and one of the student's.
    assert [(line["steps"], line["evaluations"]) for line in journal] == [(8, 3)] * 3 + [(4, 3)] * 3 + [(2, 3)] * 3
    lines = (run / "lines.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [*(str(line["loss"]) for line in journal), "finished"]
    assert (run / "pipeline/tiny.safetensors").is_file()
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    assert {row["metric"] for row in scores} == {"variance-blocks", "fd-blocks"}


def test_a_stopped_run_of_it_goes_on_to_the_same_weights(environment: Environment, run: Path) -> None:
    """State of engine and teacher included."""
    part = environment.folder / "part"
    shutil.copytree(run, part)
    shutil.rmtree(part / "checkpoints/update-000009")
    shutil.rmtree(part / "pipeline")
    done = environment.distillkit("run", "my.toml", *OFTEN, "--output", "part", "--resume")
    assert done.returncode == 0, done.stderr
    weights = "pipeline/tiny.safetensors"
    assert (part / weights).read_bytes() == (run / weights).read_bytes()


def test_its_converter_converts(environment: Environment, run: Path) -> None:
    weights = load_file(run / "pipeline/tiny.safetensors")
    np.savez(environment.folder / "tiny.npz", **weights)
    (environment.folder / "tiny.json").write_text('{"width": 4}', encoding="utf-8")
    [block] = [block for block in blocks("console") if block.startswith("$ distillkit convert")]
    command, _, shown = block.partition("\n")
    done = environment.distillkit(*command.split()[2:])
    assert (done.returncode, done.stdout) == (0, shown), done.stderr
    converted = load_file(environment.folder / "tiny/tiny.safetensors")
    assert converted.keys() == weights.keys()
    assert all(np.array_equal(converted[name], weight) for name, weight in weights.items())


def test_its_model_takes_weights_of_its_own(environment: Environment, run: Path) -> None:
    """A third party's trained network is distilled; the page needs less than 60 lines for it."""
    [model] = [block for block in blocks("python") if block.startswith("# my-parts/my_parts/model.py")]
    assert len(model.splitlines()) < 60
    given = ["--set", "model.weights=runs/my/pipeline/tiny.safetensors"]
    done = environment.distillkit("run", "my.toml", *given, "--output", "second")
    assert done.returncode == 0, done.stderr
    student, teacher = (
        {
            (row["metric"], row["steps"]): row["value"]
            for row in json.loads((folder / "scores.json").read_text(encoding="utf-8"))
            if row["model"] == which
        }
        for folder, which in ((run, "student"), (environment.folder / "second", "teacher"))
    )
    both = student.keys() & teacher.keys()
    assert both
    assert {key: teacher[key] for key in both} == pytest.approx({key: student[key] for key in both})


def test_its_result_is_a_model(environment: Environment) -> None:
    """It is sampled, evaluated and distilled further."""
    text = (environment.folder / "my.toml").read_text(encoding="utf-8")
    phases = "[[phase]]\n[[phase]]\n[phase.run]\nupdates = 3\n"
    (environment.folder / "two.toml").write_text(f"{text}\n{phases}", encoding="utf-8")
    done = environment.distillkit("run", "two.toml")
    assert done.returncode == 0, done.stderr
    second = environment.folder / "runs/two/phases/2/config.toml"
    assert "phases/1/pipeline/tiny.safetensors" in second.read_text(encoding="utf-8")
    code = (
        "from distillkit.cli.group import cli\n"
        "for command in ('sample runs/two --steps 2 --output two.png', 'evaluate runs/two --steps 2 --json'):\n"
        "    cli(command.split(), standalone_mode=False)"
    )
    done = call(environment.python, "-c", code, folder=environment.folder)
    sampled, _, evaluated = done.stdout.partition("\n")
    assert sampled == "two.png: 16 samples in 2 steps", done.stderr
    scores = json.loads((environment.folder / "runs/two/scores.json").read_text(encoding="utf-8"))
    expected = {row["metric"]: row["value"] for row in scores if (row["model"], row["steps"]) == ("student", 2)}
    assert {row["metric"]: row["value"] for row in json.loads(evaluated)} == pytest.approx(expected)


def test_its_parts_work_in_two_processes(environment: Environment) -> None:
    """With distillkit's engine, as the page's is for one. Two processes learn what one does with twice the batch."""
    common = ["run", "my.toml", "--set", "engine.type=torch", "--set", "model.width=3"]
    done = environment.distillkit(*common, "--set", "source.batch=8", "--output", "one")
    assert done.returncode == 0, done.stderr
    done = environment.distillkit("launch", "--processes", "2", *common, "--output", "both")
    assert done.returncode == 0, done.stderr
    one, both = (
        [json.loads(line) for line in (environment.folder / run / "journal.jsonl").read_text().splitlines()]
        for run in ("one", "both")
    )
    assert [line["loss"] for line in both] == pytest.approx([line["loss"] for line in one], rel=1e-4)


def test_an_engine_for_one_process_is_refused_in_two(environment: Environment) -> None:
    done = environment.distillkit("launch", "--processes", "2", "run", "my.toml", "--output", "apart")
    assert done.returncode == 2
    assert (
        "my-parts 0.1.0, engine 'sgd': setup() gave 2 processes that do not know of one another; expected a process "
        "group: call distributed.init, or use one process\n"
    ) in done.stderr
    assert not (environment.folder / "apart").exists()


def test_rule_1_holds_for_it(environment: Environment) -> None:
    code = (
        "import sys; from distillkit.cli.group import cli; cli(['check', 'my.toml'], standalone_mode=False)\n"
        "assert not {'torch', 'mlflow'} & set(sys.modules)"
    )
    done = call(environment.python, "-c", code, folder=environment.folder)
    assert (done.returncode, done.stdout) == (0, "my.toml: ok\n"), done.stderr


def test_mistakes_are_shown_as_the_page_says(environment: Environment) -> None:
    [block] = [block for block in blocks("console") if block.startswith("$ distillkit check")]
    command, _, shown = block.partition("\n")
    done = environment.distillkit(*command.split()[2:])
    assert (done.returncode, done.stderr) == (2, shown)


def test_page_names_every_hook_and_interface() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("distillkit_")]
    assert [hook for hook in hooks if f"`{hook}`" not in TEXT] == []
    assert [kind.base.__name__ for kind in KINDS.values() if f"`{kind.base.__name__}`" not in TEXT] == []
