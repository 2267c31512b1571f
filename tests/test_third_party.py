"""Plugins of others, installed with pip into an environment of their own beside distillkit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import SMALL
from helpers.environments import Environment, make_environment

PROJECTS = Path(__file__).with_name("third_party")
CONFIG = 'preset = "dsdi"\n[run]\nupdates = 10\n[schedule]\ntype = "geometric"\nstart = 8\nfactor = 2.5\n'
BROKEN = "ModuleNotFoundError: No module named 'a_library_that_nobody_has'"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """One with a plugin that works and one that does not, and a config that names the first's schedule."""
    folder = tmp_path_factory.mktemp("third")
    made = make_environment(folder, PROJECTS / "geometric-steps", PROJECTS / "broken-steps")
    (folder / "mine.toml").write_text(CONFIG + SMALL, encoding="utf-8")
    return made


def test_plugins_lists_them(environment: Environment) -> None:
    found = json.loads(environment.distillkit("plugins", "--json").stdout)
    ours = {"kind": "schedule", "name": "geometric", "package": "geometric-steps", "version": "1.2.0"}
    assert ours in found["components"]
    assert found["broken"] == [
        {"name": "broken_steps", "package": "broken-steps", "version": "0.3.0", "reason": BROKEN}
    ]


def test_plugins_lists_the_broken_one_last(environment: Environment) -> None:
    lines = environment.distillkit("plugins").stdout.splitlines()
    assert ["schedule", "geometric", "geometric-steps", "1.2.0"] in [line.split() for line in lines]
    assert lines[-1].split(maxsplit=3)[:3] == ["broken_steps", "broken-steps", "0.3.0"]
    assert lines[-1].strip().endswith(BROKEN)


def test_plan_of_a_config_that_names_it(environment: Environment) -> None:
    plan = json.loads(environment.distillkit("plan", "mine.toml", "--json").stdout)
    assert plan == {
        "updates": 10,
        # 8 / 2.5 = 3.2, rounded down to an even number; of 5 updates each, the first stage gets a trajectory of 4.
        "stages": [{"steps": 8, "updates": 4, "evaluations": 8}, {"steps": 2, "updates": 6, "evaluations": 12}],
    }


def test_mistakes_in_its_options_are_told_like_any(environment: Environment) -> None:
    done = environment.distillkit("check", "mine.toml", "--set", "schedule.start=7", "--set", "schedule.step=1")
    assert done.returncode == 2
    assert done.stderr == (
        "mine.toml: 2 errors\n"
        "  schedule.start: must be a multiple of 2 (got 7)\n"
        "  schedule.step: unknown option of 'geometric'; it has: start, factor\n"
    )


def test_run_of_a_config_that_names_it(environment: Environment) -> None:
    done = environment.distillkit("run", "mine.toml", "--output", "run")
    assert done.returncode == 0, done.stderr
    journal = [json.loads(line) for line in (environment.folder / "run/journal.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in journal] == [8] * 4 + [2] * 6


def test_unknown_name_mentions_the_broken_one(environment: Environment) -> None:
    done = environment.distillkit("check", "mine.toml", "--set", "schedule.type=geometrik")
    assert done.returncode == 2
    assert done.stderr == (
        "mine.toml: 1 error\n"
        "  schedule.type: no schedule is called 'geometrik'; known: constant, convergence, exponential, geometric,"
        " halving, linear — did you mean 'geometric'? — it may belong to a plugin that does not work:"
        f" broken_steps (broken-steps 0.3.0: {BROKEN})\n"
    )


def test_two_distributions_that_claim_one_name(tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    shutil.copytree(PROJECTS / "geometric-steps", fork)
    (fork / "geometric_steps.py").rename(fork / "geometric_fork.py")
    project = (fork / "pyproject.toml").read_text(encoding="utf-8")
    project = project.replace("geometric_steps", "geometric_fork").replace("geometric-steps", "geometric-fork")
    (fork / "pyproject.toml").write_text(project, encoding="utf-8")
    (tmp_path / "mine.toml").write_text(CONFIG + SMALL, encoding="utf-8")

    environment = make_environment(tmp_path, PROJECTS / "geometric-steps", fork)
    done = environment.distillkit("check", "mine.toml")
    assert done.returncode == 2
    assert done.stderr == (
        "mine.toml: 1 error\n  schedule.type: 'geometric' is a schedule of geometric-fork 1.2.0 and of geometric-steps "
        "1.2.0; write 'geometric-fork:geometric' or 'geometric-steps:geometric'\n"
    )
    qualified = "schedule.type=geometric-fork:geometric"
    assert environment.distillkit("check", "mine.toml", "--set", qualified).returncode == 0
    # Nobody else is harmed.
    assert environment.distillkit("check", "mine.toml", "--set", "schedule.type=halving").returncode == 0
