"""Two runs on one folder: the second is refused."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from pathlib import Path

import pytest
from helpers.faults import KILL, Fault
from helpers.forked_runs import forked_phases, forked_run

from distillkit.errors import DistillkitError
from distillkit.training.folder import RunFolder

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


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_run_whose_lock_is_gone_writes_nothing_more(tmp_path: Path, how: str) -> None:
    """Another run may have the folder by then."""
    made = forked_run(tmp_path, *LONG)
    [first] = made.start()
    try:
        while not (made.run / "journal.jsonl").is_file():
            assert first.is_alive(), made.errors
            time.sleep(0.02)
        (made.run / ".lock").unlink()
        if how == "replaced":
            (made.run / ".lock").touch()
        first.join(60)
        assert first.exitcode == 2
        assert made.errors == (
            "run/.lock: was deleted or replaced during the run, so that another run may be using the folder: nothing "
            "more is written; see that there is none, and go on with --resume\n"
        )
    finally:
        first.kill()
        first.join()
    lines = (made.run / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["update"] for line in lines] == list(range(1, len(lines) + 1))
    assert not [*made.run.glob("checkpoints/update-*")]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    """Some NFS and FUSE ones: a file stands for the lock, with a warning."""

    def flock(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunFolder(tmp_path / "run") as first:
        first.create({})
        assert f"run/.lock: this file system has no locks ({os.strerror(number)})" in caplog.text
        first.check_lock()
        with pytest.raises(DistillkitError, match="another run is using this folder"):
            RunFolder(tmp_path / "run").open({})
        (tmp_path / "run/.lock.owner").unlink()
        with pytest.raises(DistillkitError, match="was deleted or replaced"):
            first.check_lock()
    with RunFolder(tmp_path / "run") as second:
        assert second.open({}) == []
