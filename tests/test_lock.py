"""Two runs on one folder: the second is refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers.faults import KILL, Fault
from helpers.forked_runs import forked_phases, forked_run

LONG = ("run.updates=1000000", "run.log_every=1", "evaluation.every=100", "run.checkpoint_every=0")


def said(folder: str) -> str:
    return (
        f"{folder}: another run is using this folder; wait until it has ended, stop it, or give another folder with "
        "--output\n"
    )


@pytest.mark.parametrize("kind", ["one phase", "two phases"])
def test_the_second_process_is_refused(tmp_path: Path, kind: str) -> None:
    made = forked_run(tmp_path, *LONG) if kind == "one phase" else forked_phases(tmp_path)
    if kind == "two phases":
        made.options = ("run.updates=1000000", "evaluation.samples=6")
    [first] = made.start()
    try:
        inside = made.run if kind == "one phase" else made.run / "phases/1"
        while not (inside / "journal.jsonl").is_file():
            assert first.is_alive(), made.errors
            time.sleep(0.02)
        assert made.go() == 2
        assert made.errors == said("run")
    finally:
        first.kill()
        first.join()


def test_two_that_begin_at_once(tmp_path: Path) -> None:
    """Whichever is the first, one of them makes its run."""
    made = forked_run(tmp_path)
    processes = [*made.start(), *made.start()]
    for process in processes:
        process.join(60)
    assert sorted(process.exitcode for process in processes if process.exitcode is not None) == [0, 2]
    assert (made.run / "pipeline").is_dir()


def test_a_lock_goes_with_its_process(tmp_path: Path) -> None:
    made = forked_run(tmp_path)
    assert made.go(Fault(2, "open journal.jsonl", signals=KILL)) == -9
    assert (made.run / ".lock").exists()
    assert made.go() == 0, made.errors
