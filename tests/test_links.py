"""Run folders from somebody else, with links at the names that are written next: no link is followed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distillkit import files, locks
from distillkit.errors import DistillkitError
from distillkit.training.folder import RunFolder
from distillkit.training.journal import Curves, Journal, keep_lines

TEXT = "must stay"


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A file that links lead to."""
    path = tmp_path / "private"
    path.write_text(TEXT, encoding="utf-8")
    return path


NAMES = (
    *(".lock", "journal.jsonl", "curves.jsonl", "scores.json", "best.safetensors", ".config.toml.partial"),
    *("samples/steps-002.png", "phases/1/journal.jsonl", "pipeline/unet/config.json", "missing"),
)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_with_links_is_not_resumed(tmp_path: Path, private: Path, name: str) -> None:
    folder = RunFolder(tmp_path / "run")
    link = folder.path / name
    link.parent.mkdir(parents=True)
    folder.config.write_text("", encoding="utf-8")
    link.symlink_to(private if name != "missing" else tmp_path / "nowhere")
    for attempt in (lambda: folder.open({}), folder.check_idle):
        with pytest.raises(DistillkitError) as caught:
            attempt()
        assert str(caught.value) == (
            f"{link}: is a link, which a run's folder must not have: put what it leads to there"
        )
    assert private.read_text(encoding="utf-8") == TEXT
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["journal.jsonl", "samples/steps-002.png", ".lock"])
def test_nor_one_with_pipes(tmp_path: Path, name: str) -> None:
    """Opening one would wait for ever."""
    folder = RunFolder(tmp_path / "run")
    pipe = folder.path / name
    pipe.parent.mkdir(parents=True)
    folder.config.write_text("", encoding="utf-8")
    os.mkfifo(pipe)
    for attempt in (lambda: folder.open({}), folder.check_idle):
        with pytest.raises(DistillkitError) as caught:
            attempt()
        assert str(caught.value) == f"{pipe}: is a pipe (FIFO), which a run's folder must not have: take it away"


@pytest.mark.parametrize("name", [".lock", "journal.jsonl"])
def test_nor_one_with_a_folder_for_a_file(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path / "run")
    (folder.path / name).mkdir(parents=True)
    folder.config.write_text("", encoding="utf-8")

    def attempt() -> None:
        with folder:
            folder.open({})
            Journal(folder.journal, None, 0)  # type: ignore[arg-type]

    with pytest.raises(DistillkitError) as caught:
        attempt()
    assert str(caught.value) == (
        f"{folder.path / name}: cannot be written (Is a directory); nothing that was there before is lost: take away "
        "what is there in its place, and go on with --resume"
    )


@pytest.mark.parametrize("name", ["checkpoints", "samples"])
def test_nor_one_with_links_to_folders(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.config.write_text("", encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    (folder.path / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DistillkitError, match=f"{name}: is a link"):
        folder.open({})


def test_a_new_run_with_a_link_for_a_lock(tmp_path: Path, private: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    (folder.path / ".lock").symlink_to(private)
    with pytest.raises(DistillkitError, match=r"\.lock: is a link"):
        folder.create({})
    assert private.read_text(encoding="utf-8") == TEXT


def test_a_run_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with RunFolder(tmp_path / "run") as folder:
        folder.create({})
    assert (tmp_path / "disk/config.toml").is_file()


def test_files_that_grow_follow_no_link(tmp_path: Path, private: Path) -> None:
    """One that was put there during the run."""
    link = tmp_path / "journal.jsonl"
    link.symlink_to(private)
    for write in (
        lambda: keep_lines(link, 0),
        lambda: Journal(link, None, 0),  # type: ignore[arg-type]
        lambda: Curves(link, 5).add(6, {}),
        lambda: locks.file_lock(link),
    ):
        with pytest.raises((OSError, DistillkitError)):
            write()
    assert private.read_text(encoding="utf-8") == TEXT


@pytest.mark.parametrize("folder", [False, True])
def test_what_is_replaced_is_the_link(tmp_path: Path, private: Path, folder: bool) -> None:
    target, link = tmp_path / "target" if folder else private, tmp_path / "it"
    if folder:
        target.mkdir()
    link.symlink_to(target)
    for _ in range(2):
        with files.replacing(link) as temporary:
            if folder:
                temporary.mkdir()
                (temporary / "part").touch()
            else:
                temporary.write_text("new", encoding="utf-8")
        assert not link.is_symlink()
    assert [*target.iterdir()] == [] if folder else target.read_text(encoding="utf-8") == TEXT
    assert not [*tmp_path.glob(".it*")]


def test_a_link_that_leads_nowhere_is_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "it").symlink_to(tmp_path / "nowhere")
    with files.replacing(tmp_path / "it") as temporary:
        temporary.mkdir()
    assert (tmp_path / "it").is_dir()
    assert not (tmp_path / "nowhere").exists()
