"""Runs of two processes: one is killed, the other ends, and what goes on is the run that was never killed."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from helpers.faults import KILL, Fault, one_of_each
from helpers.forked_runs import ForkedRun, content, forked_critic, forked_phases, forked_run

ENGINES = {
    "ddp": (),
    "ddp, a critic": (),
    "fsdp": ("engine.sharding=fsdp",),
    "zero-2": ("engine.type=deepspeed", "engine.device=cpu", "engine.zero_stage=2"),
    "zero-3": ("engine.type=deepspeed", "engine.device=cpu", "engine.zero_stage=3"),
}
SHARDED = [*ENGINES][2:]
MINUTE = 60
# Each run of two processes with a sharded engine takes half a minute where the cores are busy.
pytestmark = pytest.mark.timeout(900)


@cache
def compile_for_cpu() -> None:
    """Compile what DeepSpeed compiles when a CPU uses it for the first time: in minutes, where the cores are busy.

    One of the runs below would have to do it in the time that it has.
    """
    build = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder; ShareMemCommBuilder().load()"
    subprocess.run([sys.executable, "-c", build], check=True, capture_output=True)


def two(top: Path, engine: str) -> ForkedRun:
    if engine.startswith("zero"):
        compile_for_cpu()
    make = forked_critic if engine.endswith("critic") else forked_run
    return replace(make(top, *ENGINES[engine], "engine.precision=fp32"), ranks=2)


@pytest.fixture(
    scope="module", params=["ddp", *(pytest.param(name, marks=pytest.mark.slow) for name in [*ENGINES][1:])]
)
def whole_of_two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ForkedRun]:
    """An engine, and a run with it that nothing happened to."""
    made = two(tmp_path_factory.mktemp("whole"), request.param)
    assert made.go() == 0, made.errors
    return request.param, made


def killed_alone(processes: list[BaseProcess], rank: int) -> None:
    """One was killed; the other ends by itself, and tells whoever waits that it did not get through."""
    processes[rank].join(2 * MINUTE)
    assert processes[rank].exitcode == -signal.SIGKILL
    processes[1 - rank].join(MINUTE)
    assert processes[1 - rank].exitcode not in (None, 0), "the other one went on"


def goes_on(killed: ForkedRun, whole: ForkedRun) -> None:
    assert killed.go() == 0, killed.errors
    assert content(killed.run) == content(whole.run)


def test_the_first_is_killed_in_a_checkpoint(whole_of_two: tuple[str, ForkedRun], tmp_path: Path) -> None:
    """Before the new one is in its place, of which the second has written its part where it has one."""
    engine, whole = whole_of_two
    killed = two(tmp_path, engine)
    killed_alone(killed.start(Fault(1, "rename checkpoints/.update-000004.partial", signals=KILL)), 0)
    goes_on(killed, whole)


def test_the_second_is_killed_in_training(whole_of_two: tuple[str, ForkedRun], tmp_path: Path) -> None:
    engine, whole = whole_of_two
    killed = two(tmp_path, engine)
    processes = killed.start()
    journal = killed.run / "journal.jsonl"
    while not journal.is_file() or journal.read_bytes().count(b"\n") < 3:
        assert all(process.is_alive() for process in processes), killed.errors
        time.sleep(0.01)
    processes[1].kill()
    killed_alone(processes, 1)
    goes_on(killed, whole)


@pytest.mark.slow
def test_the_first_is_killed_at_any_write(whole_of_two: tuple[str, ForkedRun], tmp_path: Path) -> None:
    """At some of them, others for each engine. In one process, test_kill.py has all."""
    engine, whole = whole_of_two
    writes = one_of_each(whole.events, seed=0)
    for number in random.Random(engine).sample(writes, 4 if engine in SHARDED else 8):
        killed = two(tmp_path / str(number), engine)
        killed_alone(killed.start(Fault(number, signals=KILL)), 0)
        goes_on(killed, whole)


FULL = {
    "best.safetensors": "save .best.safetensors.partial",
    "scores.json": "open .scores.json.partial",
    "samples/during/update-000002-steps-002.png": "open samples/during/.update",
    "curves.jsonl": "open curves.jsonl",
    "samples/steps-002.png": "open samples/.steps",
    "pipeline": "save .pipeline.partial",
}


@pytest.mark.parametrize(
    ("engine", "file"),
    [
        pytest.param("ddp", "best.safetensors"),
        *(pytest.param("ddp", name, marks=pytest.mark.slow) for name in FULL if name != "best.safetensors"),
        # What they gather for these, all take part in.
        *(
            pytest.param(name, file, marks=pytest.mark.slow)
            for name in SHARDED
            for file in ("best.safetensors", "pipeline")
        ),
    ],
)
def test_a_disk_that_is_full_for_the_first_ends_both(tmp_path: Path, engine: str, file: str) -> None:
    """The second does not wait for what the first would have done next; one of them says why."""
    full = two(tmp_path, engine)
    processes = full.start(Fault(1, FULL[file], full=True))
    for process in processes:
        process.join(MINUTE)
    assert [process.exitcode for process in processes] == [2, 2]
    lines = (full.errors + (tmp_path / "errors-1").read_text(encoding="utf-8")).splitlines()
    # torch may warn of the store, which goes with the first.
    [said] = [line for line in lines if "cannot be written" in line]
    assert said.startswith(f"run/{file}: cannot be written (No space left on device)")


@pytest.mark.slow
def test_phases_of_two_processes_go_on(tmp_path: Path) -> None:
    """After the disk was full where the second phase began, and again where the results were collected."""
    whole, full = (replace(forked_phases(tmp_path / name), ranks=2) for name in ("whole", "full"))
    assert whole.go() == 0, whole.errors
    for at in ("open phases/2/.config.toml.partial", "open .journal.jsonl.partial"):
        processes = full.start(Fault(1, at, full=True))
        for process in processes:
            process.join(MINUTE)
        assert [process.exitcode for process in processes] == [2, 2]
    goes_on(full, whole)


def test_another_layout_is_refused_by_name(whole_of_two: tuple[str, ForkedRun], tmp_path: Path) -> None:
    """The checkpoints are good, and are not said to be damaged."""
    engine, whole = whole_of_two
    begun = two(tmp_path, engine)
    shutil.copytree(whole.run, begun.run)
    shutil.rmtree(begun.run / "pipeline")
    other = "engine.zero_stage=3" if engine == "zero-2" else "engine.zero_stage=2"
    other = other if engine.startswith("zero") else f"engine.sharding={'none' if engine == 'fsdp' else 'fsdp'}"
    allowed = replace(begun, options=(*begun.options, other), flags=("--allow-change", "engine"))
    assert allowed.go() == 2
    said = allowed.errors + (tmp_path / "errors-1").read_text(encoding="utf-8")
    assert "its state is sharded differently (" in said
    assert "damaged" not in said + allowed.output
