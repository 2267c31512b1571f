"""A full disk, a read-only folder: the state stays good, one sentence says so, and the run goes on later."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.faults import Fault
from helpers.forked_runs import ForkedRun, content, forked_run

ADVICE = (
    "nothing that was there before is lost: make room, or see to the folder's permissions, and go on with --resume\n"
)
NO_SPACE = "cannot be written (No space left on device)"

# The event from which on the disk is full, which of them, and what the message names.
MOMENTS: dict[str, tuple[str, int, str]] = {
    "the config": ("open .config.toml.partial/config.toml", 1, ""),
    "the teacher's scores": ("open .scores.json.partial/scores.json", 1, "/scores.json"),
    "the journal": ("open journal.jsonl", 4, "/journal.jsonl"),
    "the curves": ("open curves.jsonl", 2, "/curves.jsonl"),
    "the best weights": ("save .best.safetensors.partial", 1, "/best.safetensors"),
    "a checkpoint's folder": ("mkdir checkpoints/.update-000004.partial", 1, "/checkpoints/update-000004"),
    "a checkpoint's weights": ("save checkpoints/.update-000004.partial", 1, "/checkpoints/update-000004"),
    "a checkpoint's manifest": ("/update-000004/manifest", 1, "/checkpoints/update-000004"),
    "a checkpoint's flushing": ("fsync checkpoints/.update-000002.partial", 1, "/checkpoints/update-000002"),
    "a checkpoint's renaming": ("rename checkpoints/.update-000002.partial", 1, "/checkpoints/update-000002"),
    "the samples": ("open samples/.steps-002.png.partial/steps", 1, "/samples/steps-002.png"),
    "the export": ("save .pipeline.partial/pipeline/", 1, "/pipeline"),
    "the export's card": ("open .pipeline.partial/pipeline/", 5, "/pipeline"),
}


FAST = ("the journal", "a checkpoint's weights", "a checkpoint's renaming", "the export")


@pytest.mark.parametrize("moment", [pytest.param(m, marks=[pytest.mark.slow] * (m not in FAST)) for m in MOMENTS])
def test_full_from_a_moment_on(whole: ForkedRun, tmp_path: Path, moment: str) -> None:
    at, which, named = MOMENTS[moment]
    full = forked_run(tmp_path)
    assert full.go(Fault(which, at, full=True)) == 2, full.errors
    assert full.errors.startswith(f"run{named}: {NO_SPACE}")
    assert full.errors.count("\n") == 1
    assert full.go() == 0, full.errors
    assert content(full.run) == content(whole.run)


class Disk:
    """A file system of its own where that may be mounted; elsewhere, limits and permissions that come near it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def limit(self, size: int) -> Fault:
        """Room for so many bytes in all; or, if that cannot be had, in one file."""
        if not self.mounted:
            return Fault(limit=size // 8)
        self._remount(f"size={size}")
        return Fault()

    def protect(self) -> None:
        """No more writing."""
        if self.mounted:
            self._remount("ro")
        for folder in [self.folder, *self.folder.rglob("*")]:
            if not self.mounted and folder.is_dir():
                folder.chmod(0o555)

    def give_back(self) -> None:
        """As in the beginning."""
        if self.mounted:
            self._remount("rw,size=1g")
        for folder in [self.folder, *self.folder.rglob("*")]:
            if folder.is_dir():
                folder.chmod(0o755)

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    yield made
    made.give_back()
    made.close()


def on(disk: Disk, top: Path, *options: str) -> ForkedRun:
    """A run whose folder is on the disk."""
    made = forked_run(top, *options)
    (disk.folder / "run").mkdir()
    made.run.symlink_to(disk.folder / "run")
    return made


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("part", ["best", "checkpoint"])
def test_a_disk_that_is_full(whole: ForkedRun, disk: Disk, tmp_path: Path, part: str) -> None:
    """With room for less than the second checkpoint, or for less than the best weights."""
    checkpoint = size_of(whole.run / "checkpoints/update-000004")
    full = on(disk, tmp_path / "top")
    fault = disk.limit(checkpoint * 9 // 5 if part == "checkpoint" else checkpoint // 8)
    assert full.go(fault) == 2, full.errors
    assert full.errors.endswith(ADVICE)
    assert full.errors.count("\n") == 1
    disk.give_back()
    assert full.go() == 0, full.errors
    assert content(full.run) == content(whole.run)


def test_a_folder_that_is_read_only(whole: ForkedRun, disk: Disk, tmp_path: Path) -> None:
    """Before the run begins, and when it goes on."""
    made = on(disk, tmp_path / "top")
    refused: Callable[[], bool] = lambda: "cannot be written (Read-only" in made.errors or "(Permission" in made.errors  # noqa: E731
    disk.protect()
    assert made.go() == 2
    assert refused(), made.errors
    disk.give_back()
    assert made.go(Fault(1, "save checkpoints/.update-000004.partial", full=True)) == 2
    disk.protect()
    assert made.go() == 2
    assert refused(), made.errors
    assert made.errors.count("\n") == 1
    disk.give_back()
    assert made.go() == 0, made.errors
    assert content(made.run) == content(whole.run)
