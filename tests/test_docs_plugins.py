"""docs/plugins.md, put together as its reader would, installed and run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers.environments import Environment, call, make_environment

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


def test_its_config_runs(environment: Environment) -> None:
    done = environment.distillkit("run", "my.toml")
    assert done.returncode == 0, done.stderr
    run = environment.folder / "runs/my"
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text(encoding="utf-8").splitlines()]
    # Equal shares; two evaluations of the teacher's and one of the student's.
    assert [(line["steps"], line["evaluations"]) for line in journal] == [(8, 3)] * 3 + [(4, 3)] * 3 + [(2, 3)] * 3
    lines = (run / "lines.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [*(str(line["loss"]) for line in journal), "finished"]
    assert (run / "pipeline/tiny.safetensors").is_file()
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    assert {row["metric"] for row in scores} == {"spread-blocks", "fd-blocks"}


def test_a_stopped_run_of_it_goes_on_to_the_same_weights(environment: Environment) -> None:
    """State of engine and teacher included: the run is stopped between two of the teacher's renewals."""
    often = ["--set", "run.checkpoint_every=5", "--set", "run.keep=2"]
    assert environment.distillkit("run", "my.toml", *often, "--output", "whole").returncode == 0
    whole, part = environment.folder / "whole", environment.folder / "part"
    call("cp", "-r", whole, part, folder=environment.folder)
    call("rm", "-r", part / "checkpoints/update-000009", part / "pipeline", folder=environment.folder)
    done = environment.distillkit("run", "my.toml", *often, "--output", "part", "--resume")
    assert done.returncode == 0, done.stderr
    weights = "pipeline/tiny.safetensors"
    assert (part / weights).read_bytes() == (whole / weights).read_bytes()


def test_its_converter_converts(environment: Environment) -> None:
    code = (
        "import json, numpy; from my_parts.network import TinyNetwork\n"
        "numpy.savez('tiny.npz', **{name: weight.numpy() for name, weight in TinyNetwork(4).state_dict().items()})\n"
        "json.dump({'width': 4}, open('tiny.json', 'w'))"
    )
    call(environment.python, "-c", code, folder=environment.folder)
    [block] = [block for block in blocks("console") if block.startswith("$ distillkit convert")]
    command, _, shown = block.partition("\n")
    done = environment.distillkit(*command.split()[2:])
    assert (done.returncode, done.stdout) == (0, shown), done.stderr
    assert (environment.folder / "tiny/tiny.safetensors").is_file()


def test_its_model_takes_weights_of_its_own(environment: Environment) -> None:
    """A third party's trained network is distilled; the page needs less than 60 lines for it."""
    [model] = [block for block in blocks("python") if block.startswith("# my-parts/my_parts/model.py")]
    assert len(model.splitlines()) < 60
    assert environment.distillkit("run", "my.toml", "--output", "first").returncode == 0
    given = ["--set", "model.weights=first/pipeline/tiny.safetensors"]
    done = environment.distillkit("run", "my.toml", *given, "--output", "second")
    assert done.returncode == 0, done.stderr
    student, teacher = (
        {
            (row["metric"], row["steps"]): row["value"]
            for row in json.loads((environment.folder / run / "scores.json").read_text(encoding="utf-8"))
            if row["model"] == which
        }
        for run, which in (("first", "student"), ("second", "teacher"))
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
    done = environment.distillkit("sample", "runs/two", "--steps", "2", "--output", "two.png")
    assert (done.returncode, done.stdout) == (0, "two.png: 16 samples in 2 steps\n"), done.stderr
    done = environment.distillkit("evaluate", "runs/two", "--steps", "2", "--json")
    scores = json.loads((environment.folder / "runs/two/scores.json").read_text(encoding="utf-8"))
    expected = {row["metric"]: row["value"] for row in scores if (row["model"], row["steps"]) == ("student", 2)}
    assert {row["metric"]: row["value"] for row in json.loads(done.stdout)} == pytest.approx(expected), done.stderr


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
