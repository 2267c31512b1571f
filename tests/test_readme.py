"""The README's commands, configs and code, tried out as its reader would."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import SMALL, ConfigFile
from helpers.environments import make_environment
from helpers.pipelines import alone
from helpers.snippets import ROOT, blocks, parse, shell_commands
from PIL import Image

from distillkit.cli.group import COMMANDS, cli
from distillkit.config import make_plan, read_config

README = ROOT / "README.md"
COMMANDS_IN_README = [words for words in shell_commands(README) if words[0] == "distillkit"]
CHEAP = {"check", "plan", "plugins", "completion", "--help", "--version"}
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))


def test_the_two_commands_stand_there() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert lines.count("pip install -e . && distillkit run configs/quickstart.toml") == 1
    assert lines.count("pip install -e '.[test]' && pytest") == 1


def test_ci_runs_the_test_command() -> None:
    done = subprocess.run([ROOT / ".ci/run", "--print"], capture_output=True, text=True, check=True)
    assert done.stdout == "pip install -e '.[test]' && pytest\n"


def test_every_command_is_shown() -> None:
    assert {words[1] for words in COMMANDS_IN_README} >= COMMANDS.keys() - {"completion"}


@pytest.mark.parametrize("words", COMMANDS_IN_README, ids=" ".join)
def test_commands_exist(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize(
    "words",
    [words for words in COMMANDS_IN_README if words[1] in CHEAP and "halfing" not in " ".join(words)],
    ids=" ".join,
)
def test_cheap_commands_run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(cli, words[1:], prog_name="distillkit", catch_exceptions=False)
    assert result.exit_code == 0, result.output


def test_mistakes_are_shown_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    [block] = blocks(README, "console")
    command, _, shown = block.partition("\n")
    result = CliRunner().invoke(cli, command.split()[2:], catch_exceptions=False)
    assert (result.exit_code, result.stderr) == (2, shown)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with the names of what a check looks for, and what need not be installed."""
    for part in ("train", "t10k"):
        for what in ("images-idx3", "labels-idx1"):
            (tmp_path / f"{part}-{what}-ubyte.gz").touch()
    (tmp_path / "inception.pth").touch()
    Image.new("RGB", (64, 64)).save(tmp_path / "1.png")
    return tmp_path


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_passes_its_check(config: Path, elsewhere: Path) -> None:
    text = config.read_text(encoding="utf-8")
    overrides = [f"data.folder={elsewhere}"] if re.search(r'type = "(fashion-mnist|images)"', text) else []
    overrides += [f"features.weights={elsewhere / 'inception.pth'}"] if 'type = "inception"' in text else []
    for settings in read_config(config, overrides).phases:
        assert sum(part.updates for part in make_plan(settings.components())) == settings.run.updates


def test_methods_cost_what_the_table_says(config: ConfigFile) -> None:
    rows = [line.split("|") for line in README.read_text(encoding="utf-8").splitlines()]
    costs = {row[2].strip(" `"): row[4].strip() for row in rows if len(row) == 7 and row[2].strip().startswith("`")}
    found = {}
    for preset in costs:
        data = '[data]\ntype = "digits"\n' if preset in ("pd", "training", "dsd-training") else ""
        settings = read_config(config.write(f'preset = "{preset}"\n[run]\nupdates = 640\n{data}')).phases[0]
        first = make_plan(settings.components())[0]
        n = first.steps
        each = first.evaluations
        found[preset] = "1 + N" if each == 1 + n else f"{each:g}"
    assert found == costs
    own = {"dsd-anchored", "dsdn", "dsdi", "dsdgl", "dsdgexp"}
    others = {"tsd", "pd", "luhman", "luhman-cached", "any-step", "shortcut", "matching", "consistency", "guided"}
    others |= {"training", "dsd-training", "dmd", "sid"}
    assert costs.keys() == own | others


def test_diffusers_loads_the_pipeline_as_shown(
    config: ConfigFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [code] = [block for block in blocks(README, "python") if "DiffusionPipeline" in block]
    path = config.write(
        'preset = "dsdi"\n[run]\nupdates = 1\n[schedule]\nstart = 4\n[evaluation]\nsteps = [4]\n', SMALL
    )
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["run", str(path), "--output", "runs/quickstart"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    alone(f"{code}\nassert [image.size for image in images] == [(8, 8)] * 4", tmp_path)


def test_a_part_of_your_own_works_as_shown(tmp_path: Path) -> None:
    for block in blocks(README, "python", "toml"):
        first, _, _ = block.partition("\n")
        if first in ("# three_stages.py", "# pyproject.toml"):
            (tmp_path / first.removeprefix("# ")).write_text(block, encoding="utf-8")
    environment = make_environment(tmp_path, tmp_path)
    text = f'preset = "dsdn"\n[run]\nupdates = 64\n[schedule]\ntype = "three-stages"\n{SMALL}'
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    plan = json.loads(environment.distillkit("plan", "mine.toml", "--json").stdout)
    assert [(stage["steps"], stage["updates"]) for stage in plan["stages"]] == [(16, 16), (8, 16), (4, 32)]
