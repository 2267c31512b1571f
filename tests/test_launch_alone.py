"""`distillkit launch` on one machine: whom it hears, what it imports, and how its processes end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import ENDLESS, write_tiny
from helpers.digits import Run

LAUNCH = ("launch", "--processes", "2", "run", "tiny.toml", *ENDLESS)
HOSTILE = "from pathlib import Path\nPath('imported').touch()\n"


class Launched:
    """A run of two processes in a folder, which has made its first update."""

    def __init__(self, folder: Path, **streams: int) -> None:
        write_tiny(folder)
        self.folder = folder / "runs/tiny"
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("distillkit"), *LAUNCH],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
            **(streams or {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}),  # type: ignore[arg-type]
        )
        journal = self.folder / "journal.jsonl"
        self.wait(lambda: journal.is_file() and journal.stat().st_size > 0)
        self.workers = psutil.Process(self.process.pid).children()

    def wait(self, until: Callable[[], bool]) -> None:
        end = time.monotonic() + 100
        while not until():
            assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        for worker in self.workers:
            if worker.is_running():
                worker.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """In a folder with a module that has a package's name, and with a plugin."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("hostile", "safetensors", "distillkit_hostile"):
        (folder / f"{name}.py").write_text(HOSTILE, encoding="utf-8")
    (folder / "hostile-1.dist-info").mkdir()
    (folder / "hostile-1.dist-info/METADATA").write_text("Name: hostile\nVersion: 1\n", encoding="utf-8")
    (folder / "hostile-1.dist-info/entry_points.txt").write_text("[distillkit]\nhostile = hostile\n", encoding="utf-8")
    run = Launched(folder)
    yield run
    run.kill()


def test_nothing_in_the_current_folder_is_imported(launched: Launched) -> None:
    assert not (launched.folder.parents[1] / "imported").exists()


def test_nothing_listens_beyond_this_machine(launched: Launched) -> None:
    processes = [psutil.Process(launched.process.pid), *launched.workers]
    sockets = [each for process in processes for each in process.net_connections("inet")]
    listening = [each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3
    assert {*listening} == {"127.0.0.1"}


def test_processes_end_with_a_launcher_that_is_killed(launched: Launched) -> None:
    """So that nobody resumes a run beside them. The last of the tests with this run."""
    launched.process.kill()
    _, alive = psutil.wait_procs(launched.workers, timeout=2)
    # In a container nobody may collect orphans that have ended.
    assert [worker for worker in alive if worker.status() != psutil.STATUS_ZOMBIE] == []


def test_a_terminal_that_is_closed_stops_the_run(tmp_path: Path) -> None:
    """It sends SIGHUP to the launcher, and nothing can be printed any more. Then the session ends it with SIGTERM."""
    ours, theirs = os.openpty()
    run = Launched(tmp_path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        os.close(ours)
        run.process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(60) == 128 + signal.SIGHUP
    finally:
        run.kill()
    done = Run(run.folder).journal[-1]["update"]
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == [f"update-{done:06d}"]
    assert not any(worker.is_running() for worker in run.workers)


def test_nothing_is_unpickled_from_a_socket() -> None:
    """torch's collectives for objects do so. Ours send JSON, and tests/test_kill_two.py goes through them."""
    root = Path(__file__).parents[1]
    files = [*(root / "distillkit").rglob("*.py"), *(root / "plugins").rglob("*.py")]
    text = {file.name: file.read_text(encoding="utf-8") for file in files}
    assert [name for name in text if re.search(r"(broadcast|gather|scatter|send|recv)_object", text[name])] == []
