"""The command line as a user sees it: output, errors and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import ConfigFile

from distillkit import __version__
from distillkit.cli.group import COMMANDS, cli
from distillkit.errors import DistillkitError, RunInterrupted

DSDI = 'preset = "dsdi"\n[run]\nupdates = 7\n[schedule]\nstart = 4\n'


def call(*arguments: str | Path) -> Result:
    """Run a command in this process; an error that nobody catches is raised here."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)


def test_help_lists_every_command() -> None:
    result = call("--help")
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert f"  {name}" in result.output
        assert line in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name: str) -> None:
    result = call(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: cli {name} ")


def test_version() -> None:
    assert call("--version").output == f"cli, version {__version__}\n"


def test_unknown_command_is_a_usage_error() -> None:
    result = call("distil")
    assert result.exit_code == 2
    assert "No such command 'distil'" in result.stderr


def test_missing_argument_is_a_usage_error() -> None:
    result = call("check")
    assert result.exit_code == 2
    assert "Missing argument 'CONFIG'" in result.stderr


def test_check_says_ok(config: ConfigFile) -> None:
    path = config.write(DSDI)
    result = call("check", path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{path}: ok\n", "")


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_mistakes_go_to_stderr_with_exit_code_2(config: ConfigFile, command: str) -> None:
    path = config.write(DSDI)
    result = call(command, path, "--set", "run.updates=0", "--set", "ema.decay=1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"{path}: 2 errors\n  run.updates: must be at least 1 (got 0)\n  ema.decay: must be less than 1 (got 1)\n"
    )


def test_plan_as_json(config: ConfigFile) -> None:
    result = call("plan", config.write(DSDI), "--json")
    assert json.loads(result.output) == {
        "updates": 7,
        "stages": [{"steps": 4, "updates": 4, "evaluations": 8}, {"steps": 2, "updates": 3, "evaluations": 6}],
    }


def test_plan_as_table(config: ConfigFile) -> None:
    rows = [line.split() for line in call("plan", config.write(DSDI)).output.splitlines()]
    assert rows[0] == ["stage", "steps", "N", "student's", "steps", "updates", "evaluations"]
    assert rows[2:5] == [["1", "4", "2", "4", "8"], ["2", "2", "1", "3", "6"], ["all", "7", "14"]]


def test_stages_without_updates_are_told(config: ConfigFile) -> None:
    """By check and by plan; and no more where every stage gets some."""
    file = config.write(DSDI)
    few = ("--set", "run.updates=2", "--set", "schedule.start=16")
    note = "run.updates: 2 updates for 4 stages leave 2 of them without any (N = "
    for command in ("check", "plan"):
        result = call(command, file, *few)
        assert result.exit_code == 0
        assert note in result.stdout
        assert result.stdout.endswith("give about 4 or more\n")
        enough = call(command, file, *few, "--set", "run.updates=4")
        assert "without any" not in enough.stdout


def test_plan_of_what_is_made_before_the_first_update(config: ConfigFile) -> None:
    """130 trajectories in shards of 64, of 4 steps each."""
    text = 'preset = "luhman-cached"\n[run]\nupdates = 7\n[schedule]\nsteps = 4\n[source]\ntrajectories = 130\n'
    path = config.write(text)
    rows = [line.split() for line in call("plan", path).output.splitlines()]
    assert rows[2:] == [["before", "0", "12"], ["1", "4", "1", "7", "7"], ["all", "7", "19"]]
    stages = [{"steps": 4, "updates": 7, "evaluations": 7}]
    assert json.loads(call("plan", path, "--json").output) == {"updates": 7, "before": 12, "stages": stages}


def test_plugins_as_json() -> None:
    found = json.loads(call("plugins", "--json").output)
    expected = {"kind": "schedule", "name": "linear", "package": "distillkit", "version": __version__}
    assert expected in found["components"]
    assert expected | {"kind": "preset", "name": "dsdi"} in found["components"]
    assert found["broken"] == []


def test_plugins_as_table() -> None:
    rows = [line.split() for line in call("plugins").output.splitlines()]
    assert rows[0] == ["kind", "name", "package", "version"]
    assert ["schedule", "linear", "distillkit", __version__] in rows


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_calls_distillkit_back(shell: str) -> None:
    result = call("completion", shell)
    assert result.exit_code == 0
    assert f"_DISTILLKIT_COMPLETE={shell}_complete" in result.output


def test_completion_knows_commands_and_options() -> None:
    def complete(words: str) -> list[str]:
        environment = {**os.environ, "_DISTILLKIT_COMPLETE": "bash_complete", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split()) - 1)
        found = subprocess.run(
            ["distillkit"], executable=_script(), env=environment, capture_output=True, text=True, check=False
        )
        return [line.partition(",")[2] for line in found.stdout.splitlines()]

    assert complete("distillkit pl") == ["plan", "plugins"]
    assert complete("distillkit plan --j") == ["--json"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DistillkitError("the disk is full"), 2, "the disk is full\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (RunInterrupted("after 3 updates"), 130, "stopped: after 3 updates\n"),
    ],
)
def test_errors_are_one_message(
    config: ConfigFile, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("distillkit.cli.check.read_config", fail)
    result = call("check", config.path)
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", message)


def test_our_own_faults_keep_their_traceback(config: ConfigFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("distillkit.cli.check.read_config", fail)
    with pytest.raises(ZeroDivisionError):
        call("check", config.path)


def test_broken_pipe_is_quiet() -> None:
    """As in `distillkit plugins | head -1`, where nobody reads the rest."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        process = subprocess.run([_script(), "plugins"], stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)
    assert process.stderr == ""
    assert process.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["plan", "CONFIG"], ["check", "CONFIG"], ["plugins"], ["completion", "fish"]],
)
def test_imports_neither_torch_nor_mlflow(config: ConfigFile, arguments: list[str]) -> None:
    path = config.write(DSDI + '[data]\ntype = "digits"\n[features]\ntype = "pixels"\n[[metric]]\ntype = "fid"\n')
    code = (
        "import sys; from distillkit.cli.group import cli; cli(standalone_mode=False)\n"
        "heavy = {'torch', 'mlflow', 'diffusers', 'torchmetrics', 'numpy', 'sklearn', 'PIL'}\n"
        "print('imported:', sorted(heavy & set(sys.modules)))"
    )
    filled = [str(path) if argument == "CONFIG" else argument for argument in arguments]
    process = subprocess.run([sys.executable, "-c", code, *filled], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "imported: []"


def test_help_is_quick() -> None:
    """0.3 s is promised; the best of three, as the machine may have other work."""

    def seconds() -> float:
        begin = time.perf_counter()
        subprocess.run([_script(), "--help"], stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - begin

    assert min(seconds() for _ in range(3)) < 0.3


def _script() -> str:
    """The installed `distillkit` of this environment."""
    return str(Path(sys.executable).with_name("distillkit"))
