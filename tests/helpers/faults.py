"""`distillkit` in processes of its own, to which something happens at the n-th thing that they do to the disk.

Nothing of it is in the code under test: Python tells of files that are opened, renamed and removed
(`sys.addaudithook`), and two functions are wrapped, os.fsync and the one with which safetensors writes. The processes
are forks of one that has imported everything, so that one of them takes a second and not ten.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
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

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
TOLD = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "shutil.rmtree": 1}
"""What Python tells of besides open, and how many paths it names."""


@dataclass(frozen=True)
class Fault:
    """What happens, and when.

    Attributes:
        number: at which event, from 1, of those that `at` is a part of. 0: at none.
        at: a part of an event, as in "open checkpoints/.update-000002.partial/manifest.json".
        signals: sent to the process itself, in their order.
        full: the disk is full from then on.
        limit: largest size of a file, in bytes; what is written beyond it fails.
    """

    number: int = 0
    at: str = ""
    signals: tuple[int, ...] = ()
    full: bool = False
    limit: int | None = None


class _Watch:
    """Sees what this process does below a folder."""

    def __init__(self, folder: Path, fault: Fault, log: Path) -> None:
        self._folder = f"{folder}/"
        self._fault = fault
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._count = 0
        self._full = False

    def install(self) -> None:
        import safetensors.torch

        sync, serialize = os.fsync, safetensors.torch.serialize_file

        def fsync(handle: int) -> None:
            self.see("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            sync(handle)

        def serialize_file(tensors: Any, filename: Any, metadata: Any = None) -> None:
            self.see("save", filename)
            serialize(tensors, filename, metadata=metadata)
            self.see("saved", filename)

        os.fsync = fsync
        safetensors.torch.serialize_file = serialize_file
        sys.addaudithook(self._hear)
        if self._fault.limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._fault.limit, self._fault.limit))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and arguments[2] & WRITING:
            self.see("open", arguments[0])
        elif event in TOLD:
            self.see(event.partition(".")[2], *arguments[: TOLD[event]])

    def see(self, what: str, *paths: Any) -> None:
        """Note an event, and let happen what is to happen then."""
        names = [os.path.abspath(os.fsdecode(path)) for path in paths if not isinstance(path, int)]
        inside = [name.removeprefix(self._folder) for name in names if name.startswith(self._folder)]
        if not inside:
            return
        event = " ".join([what, *inside])
        os.write(self._log, f"{event}\n".encode())
        if self._full and what in ("open", "save", "mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._fault.at in event:
            self._count += 1
            if self._count == self._fault.number:
                self._strike()

    def _strike(self) -> None:
        for number in self._fault.signals:
            os.kill(os.getpid(), number)
        if self._fault.full:
            self._full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _child(top: Path, command: Sequence[str], fault: Fault, environment: Mapping[str, str], rank: int) -> None:
    os.environ.update(environment)
    os.chdir(top)
    # A shell's background jobs, of which the tests may be one, ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "output"), (2, "errors")):
        handle = os.open(f"{name}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
    _Watch(top / "run", fault, top / f"events-{rank}").install()
    sys.argv = ["distillkit", *command]
    from distillkit.cli import main

    main()


@cache
def _forks() -> Any:
    """Where processes come from."""
    here = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.faults_warm"])
    from multiprocessing import forkserver

    forkserver.ensure_running()
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    return context


@dataclass
class Place:
    """A folder with a config, below which runs are made in run/.

    Attributes:
        top: the folder.
        options: of every `distillkit run`.
        ranks: processes that carry out a run together, as a launcher starts them.
        flags: more of a resumed run's command line.
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
        """What the newest process did to the run's folder."""
        return (self.top / "events-0").read_text(encoding="utf-8").splitlines()

    def start(self, fault: Fault = Fault(), rank: int = 0) -> list[BaseProcess]:
        """Begin the run, or go on with it; the fault is one rank's."""
        # Before it had begun, there is nothing to resume.
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
            arguments = (self.top, command, fault if i == rank else Fault(), together if self.ranks > 1 else {}, i)
            processes.append(_forks().Process(target=_child, args=arguments))
            processes[-1].start()
        return processes

    def go(self, fault: Fault = Fault(), rank: int = 0) -> int:
        """Run until it ends. The exit code; that of a signal is negative."""
        return self.wait(self.start(fault, rank))

    def wait(self, processes: list[BaseProcess]) -> int:
        for process in processes:
            process.join(120)
            if process.exitcode is None:
                process.kill()
        return next((code for process in processes if (code := process.exitcode)), 0) or 0


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def content(folder: Path) -> dict[str, Any]:
    """All that a run has left, but for the seconds that it took."""
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
        # A header in JSON, whose keys stand in any order, and the bytes of the tensors.
        size = 8 + int.from_bytes(data[:8], "little")
        return json.loads(data[8:size]), data[size:]
    return data


KILL = (signal.SIGKILL,)

# All that a run has: an average, a teacher with a state, trajectories out of step, scores, the best weights.
RUN = (
    *("run.updates=6", "run.checkpoint_every=2", "run.log_every=1", "schedule.start=4", "source.batch=3"),
    *("source.staggered=true", "source.guidance=[1.0, 3.0]", "teacher.type=ema", "teacher.decay=0.9", "ema.decay=0.9"),
    *("optimizer.learning_rate=1e-3", "evaluation.every=2", "evaluation.samples=6", "evaluation.every_samples=6"),
    *("evaluation.best=steps-2", "evaluation.batch=6"),
)


def place(top: Path, *options: str) -> Place:
    """A place for runs of six updates in two stages."""
    top.mkdir(exist_ok=True)
    (top / "mine.toml").write_text('preset = "dsdi"\n' + MODEL + PLAIN + SCORED, encoding="utf-8")
    return Place(top, (*RUN, *options))


PHASES = """
[run]
name = "two"
[[phase]]
preset = "dsdi"
run = { updates = 2, checkpoint_every = 1 }
schedule = { start = 4, stop = 4 }
[[phase]]
preset = "tsd"
run = { updates = 2, checkpoint_every = 1 }
schedule = { start = 4, stop = 4 }
"""
SMALL = "[source]\nbatch = 3\n[evaluation]\nsteps = [2]\nsamples = 6\ngrid = 2\nbatch = 6\n"


def chain(top: Path) -> Place:
    top.mkdir(exist_ok=True)
    plain = PLAIN.replace("[evaluation]\nsteps = [2]\ngrid = 2\n", "")
    (top / "mine.toml").write_text(SMALL + MODEL + plain + SCORED + PHASES, encoding="utf-8")
    return Place(top)
