"""Files and folders are replaced whole, or stay as they were."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from distillkit import files


def write(path: Path, text: str, folder: bool) -> None:
    if folder:
        path.mkdir()
    (path / "part" if folder else path).write_text(text, encoding="utf-8")


def read(path: Path) -> str:
    return (path / "part" if path.is_dir() else path).read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", [False, True])
def test_replaced_at_the_end(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "it"
    for text in ("old", "new"):
        with files.replacing(path) as temporary:
            assert not temporary.exists()
            write(temporary, text, folder)
            assert path.exists() == (text == "new")
        assert read(path) == text
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_changes_nothing(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "it"
    write(path, "old", folder)

    def interrupted() -> None:
        with files.replacing(path) as temporary:
            write(temporary, "new", folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert read(path) == "old"
    assert os.listdir(tmp_path) == ["it"]


def begins(folder: Path, name: str, connection: Connection) -> None:
    """A process that writes `folder/name` with a library that has a temporary file of its own, until it is killed."""
    with files.replacing(folder / name) as temporary:
        write(temporary, "half of it", folder=name == "folder")
        temporary.with_name(".tmpX3a9Zq").touch()
        connection.send(temporary.parent.name)
        time.sleep(60)


@contextmanager
def writer(folder: Path, name: str) -> Iterator[tuple[BaseProcess, Path]]:
    """A process in the midst of writing, and the folder in which it does."""
    forks = multiprocessing.get_context("forkserver")
    here, there = forks.Pipe()
    process = forks.Process(target=begins, args=(folder, name, there))
    process.start()
    try:
        yield process, folder / here.recv()
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("name", ["file", "folder"])
def test_what_a_dead_process_left_is_removed_by_the_next_that_writes_there(tmp_path: Path, name: str) -> None:
    with writer(tmp_path, name) as (process, hidden):
        files.write_text(tmp_path / "other", "new")
        assert read(hidden / name) == "half of it"  # it is alive
        process.kill()
        process.join()
        assert (hidden / ".tmpX3a9Zq").exists()
        files.write_text(tmp_path / "other", "newer")
    assert os.listdir(tmp_path) == ["other"]


def test_killed_before_it_had_locked(tmp_path: Path) -> None:
    (tmp_path / ".it.a1b2c3d4.partial").mkdir()
    files.write_text(tmp_path / "it", "new")
    assert os.listdir(tmp_path) == ["it"]


def test_another_process_takes_it_for_one_of_the_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the two steps in which it is made and locked."""
    moments = [lambda: files.sweep(tmp_path)]
    real = fcntl.flock
    made = tempfile.mkdtemp

    def mkdtemp(*arguments: Any, **options: Any) -> str:
        name = made(*arguments, **options)
        if moments:
            moments.pop()()
        return name

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    files.write_text(tmp_path / "it", "new")
    assert (os.listdir(tmp_path), moments) == (["it"], [])

    def flock(handle: int, how: int) -> None:
        if moments:
            moments.pop()()
        real(handle, how)

    moments = [lambda: files.sweep(tmp_path)]
    monkeypatch.setattr(fcntl, "flock", flock)
    files.write_text(tmp_path / "it", "newer")
    assert (os.listdir(tmp_path), read(tmp_path / "it"), moments) == (["it"], "newer", [])


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can tell whether a process lives there: nothing of another one is removed."""

    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with files.replacing(tmp_path / "it") as temporary:
        write(temporary, "new", folder=False)
        files.sweep(tmp_path)
    assert (os.listdir(tmp_path), read(tmp_path / "it")) == (["it"], "new")


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Those in a folder that came from elsewhere: where something is written, and where leftovers are looked for."""
    (tmp_path / "precious").mkdir()
    write(tmp_path / "precious/file", "old", folder=False)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "file").symlink_to("../precious/file")
    (folder / ".file.partial").symlink_to("../precious/file")
    (folder / ".file.a1b2c3d4.partial").symlink_to("../precious")
    (folder / ".file.e5f6g7h8.partial").mkdir()
    (folder / ".file.e5f6g7h8.partial" / files.OWNER).symlink_to("../../precious/file")
    files.write_text(folder / "file", "new")
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["file"]
    assert (read(tmp_path / "precious/file"), read(folder / "file")) == ("old", "new")
    for link in (folder / ".file.partial", folder / ".file.a1b2c3d4.partial"):
        files.remove(link)
        assert not link.is_symlink()
    assert read(tmp_path / "precious/file") == "old"


@pytest.mark.parametrize("new", [False, True])
def test_a_folder_between_two_renames(tmp_path: Path, new: bool) -> None:
    """Killed after the old one was moved out of the way: before or after the new one was there."""
    write(tmp_path / ".it.old", "old", folder=True)
    if new:
        write(tmp_path / "it", "new", folder=True)
    files.recover(tmp_path)
    assert read(tmp_path / "it") == ("new" if new else "old")
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (45_300, "45.3 kB"),
        (1_087_704, "1.1 MB"),
        (2_000_000, "2 MB"),
        (99_960, "100 kB"),
        (999_960, "1 MB"),
        (62.0e9, "62 GB"),
        (1.25e12, "1.2 TB"),
    ],
)
def test_numbers_of_bytes(number: float, text: str) -> None:
    assert files.readable_bytes(number) == text
