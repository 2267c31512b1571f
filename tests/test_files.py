"""Files and folders are replaced whole, or stay as they were."""

from __future__ import annotations

import os
from pathlib import Path

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


def test_what_an_interrupted_process_left_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "it"
    write(files.partial(path), "of before", folder=True)
    with files.replacing(path) as temporary:
        write(temporary, "new", folder=True)
    assert read(path) == "new"


def test_several_processes_do_not_write_to_the_same_file(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "it", shared=True) as temporary:
        write(temporary, "new", folder=False)
        assert str(os.getpid()) in temporary.name
    assert os.listdir(tmp_path) == ["it"]


@pytest.mark.parametrize("new", [False, True])
def test_a_folder_between_two_renames(tmp_path: Path, new: bool) -> None:
    """Killed after the old one was moved out of the way: before or after the new one was there."""
    write(tmp_path / ".it.old", "old", folder=True)
    if new:
        write(tmp_path / "it", "new", folder=True)
    files.recover(tmp_path)
    assert read(tmp_path / "it") == ("new" if new else "old")
    assert os.listdir(tmp_path) == ["it"]
