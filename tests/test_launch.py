"""`distillkit launch`, and the launchers of others: the same config, unmodified."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from conftest import ENDLESS, write_tiny
from helpers.digits import Run

from distillkit import distributed
from distillkit.cli.launch import find_self, read_hosts
from distillkit.errors import DistillkitError

SCRIPTS = Path(sys.executable).parent
LAUNCH = ("distillkit", "launch", "--processes", "2")


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A launcher that is installed beside this Python, on a config in the folder."""
    write_tiny(folder)
    return subprocess.Popen(
        [str(SCRIPTS / command[0]), *command[1:]],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        output, errors = process.communicate(timeout=200)
    finally:
        process.kill()
    return process.returncode, output, errors


@pytest.mark.slow
def test_launch_runs_a_config(tmp_path: Path) -> None:
    """And says it once, though there are two."""
    code, output, errors = end(start(tmp_path, *LAUNCH, "run", "tiny.toml"))
    assert (code, errors) == (0, "")
    assert output.splitlines()[-1] == "pipeline: runs/tiny/pipeline   samples: runs/tiny/samples"
    assert output.count("pipeline:") == 1
    assert [line["update"] for line in Run(tmp_path / "runs/tiny").journal] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        "torchrun --nproc-per-node 2 -m distillkit",
        "deepspeed --num_gpus 2 --module distillkit",
        "accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no "
        "-m distillkit",
    ],
)
def test_other_launchers_run_it_too(tmp_path: Path, launcher: str) -> None:
    words = launcher.split()
    assert shutil.which(words[0], path=str(SCRIPTS)), "the extra 'test' has it"
    code, output, errors = end(start(tmp_path, *words, "run", "tiny.toml"))
    assert code == 0, errors
    assert output.count("pipeline:") == 1
    assert [line["update"] for line in Run(tmp_path / "runs/tiny").journal] == [1, 2]


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        # Before the processes have met, and after.
        ("engine.typ='torch'", "engine.typ: unknown option of 'torch'"),
        ("evaluation.steps=[2000]", "evaluation.steps: "),
    ],
)
def test_a_mistake_is_said_once(tmp_path: Path, assignment: str, sentence: str) -> None:
    code, output, errors = end(start(tmp_path, *LAUNCH, "run", "tiny.toml", "--set", assignment))
    assert (code, output) == (2, "")
    assert errors.count(sentence) == 1
    assert errors.startswith("tiny.toml: 1 error\n")
    assert len(errors.splitlines()) == 2


@pytest.mark.slow
def test_a_folder_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/mine.txt").touch()
    code, _, errors = end(start(tmp_path, *LAUNCH, "run", "tiny.toml"))
    assert code == 2
    assert errors.count("runs/tiny: already holds something that is not a run; nothing was overwritten") == 1


def test_ctrl_c_stops_all_after_the_same_update(tmp_path: Path) -> None:
    running = start(tmp_path, *LAUNCH, "run", "tiny.toml", *ENDLESS)
    journal = tmp_path / "runs/tiny/journal.jsonl"
    while not (journal.is_file() and journal.stat().st_size):
        assert running.poll() is None, end(running)
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    code, _, errors = end(running)
    assert code == 130
    done = Run(tmp_path / "runs/tiny").journal[-1]["update"]
    assert errors == f"stopped: after update {done} of 100000; go on with --resume\n"
    assert [path.name for path in (tmp_path / "runs/tiny/checkpoints").iterdir()] == [f"update-{done:06d}"]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    running = start(tmp_path, *LAUNCH, "run", "tiny.toml", *ENDLESS)
    journal = tmp_path / "runs/tiny/journal.jsonl"
    while not (journal.is_file() and journal.stat().st_size):
        assert running.poll() is None, end(running)
        time.sleep(0.1)
    workers = psutil.Process(running.pid).children()
    workers[-1].kill()
    began = time.monotonic()
    code, _, _ = end(running)
    assert code in (1, 128 + signal.SIGKILL)
    assert time.monotonic() - began < 60
    assert not any(worker.is_running() for worker in workers)


def test_hostfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hosts"
    file.write_text("# two machines\nworker-1 slots=8\n\nworker-2  slots=4 # smaller\n", encoding="utf-8")
    hosts = read_hosts(file)
    assert hosts == {"worker-1": 8, "worker-2": 4}
    monkeypatch.setattr("socket.gethostname", lambda: "worker-2.cluster")
    assert find_self(hosts, file) == 1
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with pytest.raises(DistillkitError, match=r"does not name this machine, elsewhere; give its index .* --node-rank"):
        find_self(hosts, file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worker-1\n", "line 1: expected a machine that is not named above, and its number of processes"),
        ("a slots=1\na slots=2\n", "line 2: expected a machine that is not named above"),
        ("a slots=0\n", "line 1: "),
        ("# none\n", "names no machine; expected lines as in 'worker-1 slots=8'"),
    ],
)
def test_hostfile_mistakes(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DistillkitError, match=message):
        read_hosts(file)
    with pytest.raises(DistillkitError, match="there is no such file"):
        read_hosts(tmp_path / "none")


@pytest.mark.slow
def test_two_machines_on_one(tmp_path: Path) -> None:
    """The hostfile names this machine twice, with a process each: two launchers, one run."""
    hosts = "127.0.0.1 slots=1\nother slots=1\n"
    (tmp_path / "hosts").write_text(hosts, encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ("distillkit", "launch", "--hostfile", "hosts", "--port", str(port))
    first, second = (start(tmp_path, *words, "--node-rank", rank, "run", "tiny.toml") for rank in ("0", "1"))
    ended = [end(process) for process in (first, second)]
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert [output.count("pipeline:") for _, output, _ in ended] == [1, 0]


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 slots=1\nother slots=1\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ("--hostfile", "hosts", "--node-rank", "0", "--port", str(taken.getsockname()[1]))
        code, _, errors = end(start(tmp_path, "distillkit", "launch", *words, "run", "tiny.toml"))
    assert code == 2
    assert errors.startswith(f"127.0.0.1:{words[-1]}: the machines cannot connect there (")


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("a slots=1\n", encoding="utf-8")
    for words, sentence in {
        ("--hostfile", "hosts", "--processes", "2"): "--processes: the hostfile has the number of each machine",
        ("--node-rank", "1"): "--node-rank: is an index in a hostfile; give --hostfile too",
        ("--hostfile", "hosts", "--node-rank", "1"): "hosts names 1 machines",
    }.items():
        code, _, errors = end(start(tmp_path, "distillkit", "launch", *words, "run", "tiny.toml"))
        assert code == 2
        assert sentence in errors


def test_an_environment_that_lacks_what_launchers_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(DistillkitError) as caught:
        distributed.init(torch.device("cpu"), timeout=1)
    assert str(caught.value) == (
        "the environment sets WORLD_SIZE to 2, but does not set RANK or MASTER_ADDR: start the processes with "
        "distillkit launch, torchrun, deepspeed or accelerate, or unset WORLD_SIZE"
    )
