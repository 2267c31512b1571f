"""`distillkit run` in processes of its own, in which faults occur.

The processes are forks of one that has imported everything, so that one of them takes a second and not ten.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from helpers.digits import MODEL, PLAIN, SCORED
from helpers.faults import NO_FAULT, Fault, Watch


def _child(top: Path, command: Sequence[str], fault: Fault, environment: Mapping[str, str], rank: int) -> None:
    os.environ.update(environment)
    os.chdir(top)
    # A shell's background jobs, of which the tests may be one, ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "output"), (2, "errors")):
        handle = os.open(f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    Watch(top / "run", fault, top / f"events-{rank}").install()
    sys.argv = ["distillkit", *command]
    from distillkit import distributed
    from distillkit.cli import main

    # No launcher ends a process that waits because another one has failed.
    distributed.EXIT_TIMEOUT = 2.0

    main()


@cache
def _forks() -> Any:
    """The context whose processes are forks of one that has imported everything."""
    here = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.forked_imports"])
    from multiprocessing import forkserver

    forkserver.ensure_running()
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    return context


@dataclass
class ForkedRun:
    """A config in a folder, and its run in the folder run/ below.

    Attributes:
        top: the folder.
        options: `--set` of every `distillkit run`.
        ranks: how many processes the run has, started as a launcher does.
        flags: further words of a resumed run's command line.
    """

    top: Path
    options: tuple[str, ...] = ()
    ranks: int = 1
    flags: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        return self.top / "run"

    @property
    def output(self) -> str:
        return (self.top / "output-0").read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return (self.top / "errors-0").read_text(encoding="utf-8")

    @property
    def events(self) -> list[str]:
        """What the newest process wrote in the run's folder."""
        return (self.top / "events-0").read_text(encoding="utf-8").splitlines()

    def start(self, fault: Fault = NO_FAULT, rank: int = 0) -> list[BaseProcess]:
        """Start the run or resume it; the fault occurs in one rank."""
        # A run that was killed before it wrote its config cannot be resumed.
        resume = ["--resume", *self.flags] if (self.run / "config.toml").is_file() else []
        command = ["run", "mine.toml", "--output", "run", *resume]
        command += [part for option in self.options for part in ("--set", option)]
        processes, port = [], free_port()
        for i in range(self.ranks):
            together = {
                "RANK": str(i),
                "LOCAL_RANK": str(i),
                "WORLD_SIZE": str(self.ranks),
                "LOCAL_WORLD_SIZE": str(self.ranks),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            (self.top / f"events-{i}").unlink(missing_ok=True)
            arguments = (self.top, command, fault if i == rank else NO_FAULT, together if self.ranks > 1 else {}, i)
            processes.append(_forks().Process(target=_child, args=arguments))
            processes[-1].start()
        return processes

    def go(self, fault: Fault = NO_FAULT, rank: int = 0) -> int:
        """Run until it ends; returns the exit code, which is negative after a signal."""
        return self.wait(self.start(fault, rank))

    def wait(self, processes: list[BaseProcess]) -> int:
        for process in processes:
            process.join(120)
            if process.exitcode is None:
                process.kill()
        return next((code for process in processes if (code := process.exitcode)), 0) or 0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def content(folder: Path) -> dict[str, Any]:
    """All files of a run's folder, without the seconds that the updates took."""
    return {str(file.relative_to(folder)): _read(file) for file in folder.rglob("*") if file.name != ".lock"}


def _read(file: Path) -> Any:
    if file.is_dir():
        return None
    if file.name == "journal.jsonl":
        lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    if file.name == "position.json":
        return json.loads(file.read_text(encoding="utf-8")) | {"seconds": None}
    if file.name == "manifest.json":
        manifest = json.loads(file.read_text(encoding="utf-8"))
        del manifest["files"]["position.json"]
        return manifest
    data = file.read_bytes()
    if file.suffix == ".safetensors":
        # A header in JSON, whose keys have no order, and the bytes of the tensors.
        size = 8 + int.from_bytes(data[:8], "little")
        return json.loads(data[8:size]), data[size:]
    return data


# An average of the weights, a teacher with a state, staggered trajectories, scores, the best weights.
RUN = (
    *("run.updates=6", "run.checkpoint_every=2", "run.log_every=1", "schedule.start=4", "source.batch=3"),
    *("source.staggered=true", "source.guidance=[1.0, 3.0]", "teacher.type=ema", "teacher.decay=0.9", "ema.decay=0.9"),
    *("optimizer.learning_rate=1e-3", "evaluation.every=2", "evaluation.samples=6", "evaluation.every_samples=6"),
    *("evaluation.best=steps-2", "evaluation.batch=6"),
)


# A critic, which learns alone at first; all numbers of steps at once.
CRITIC = (
    *("run.updates=6", "run.checkpoint_every=2", "run.log_every=1", "schedule.steps=4", "grid.start=auto"),
    *("source.levels=[1, 2, 4]", "source.level_weights=[1, 1, 1]", "source.trajectories=8", "source.batch=3"),
    *("critic.updates=2", "critic.warmup=0.2", "evaluation.samples=6", "evaluation.batch=6", "evaluation.steps=[2]"),
)


def forked_critic(top: Path, *options: str) -> ForkedRun:
    """A run of six updates with a critic."""
    top.mkdir(exist_ok=True)
    (top / "mine.toml").write_text('preset = "dmd"\n' + MODEL + PLAIN + SCORED, encoding="utf-8")
    return ForkedRun(top, (*CRITIC, *options))


def forked_run(top: Path, *options: str) -> ForkedRun:
    """A run of six updates in two stages."""
    top.mkdir(exist_ok=True)
    (top / "mine.toml").write_text('preset = "dsdi"\n' + MODEL + PLAIN + SCORED, encoding="utf-8")
    return ForkedRun(top, (*RUN, *options))


PHASES = """
[run]
name = "two"
[[phase]]
preset = "dsdi"
run = { updates = 2, checkpoint_every = 1 }
schedule = { start = 4, stop = 4 }
[[phase]]
preset = "dmd"
run = { updates = 2, checkpoint_every = 1 }
schedule = { steps = 2 }
source = { levels = [1, 2], level_weights = [1, 1], trajectories = 4 }
critic = { warmup = 0 }
grid = { start = "auto" }
"""
SMALL = '[source]\nbatch = 3\n[evaluation]\nsteps = [2]\nteacher_solvers = ["ddim"]\nsamples = 6\ngrid = 2\nbatch = 6\n'


def forked_phases(top: Path) -> ForkedRun:
    """A run of two phases; the second one has a critic."""
    top.mkdir(exist_ok=True)
    plain = PLAIN.replace('[evaluation]\nsteps = [2]\nteacher_solvers = ["ddim"]\ngrid = 2\n', "")
    (top / "mine.toml").write_text(SMALL + MODEL + plain + SCORED + PHASES, encoding="utf-8")
    return ForkedRun(top)
