"""A run's folder: the paths of its files, and its lock."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tomli_w
from filelock import BaseFileLock, Timeout

from distillkit import distributed
from distillkit.errors import DistillkitError
from distillkit.files import OWNER, is_aside, reason, sweep, write_text
from distillkit.locks import file_lock
from distillkit.reading import read_scores, read_text, strangers

FREE = ("run.log_every", "run.keep", "run.checkpoint_every", "run.checkpoint_minutes")
"""Keys that may differ when a run is resumed, because they change no weight."""
LOCK = ".lock"


class RunFolder:
    """The paths of a run's files. As a context manager, it releases the folder's lock on exit.

    Only the main process reads and writes the folder. The methods and properties are collective.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.journal = path / "journal.jsonl"
        self.curves = path / "curves.jsonl"
        self.scores = path / "scores.json"
        self.checkpoints = path / "checkpoints"
        self.pipeline = path / "pipeline"
        self.lora = path / "lora"
        self.samples = path / "samples"
        self.best = path / "best.safetensors"
        self._lock: tuple[BaseFileLock, os.stat_result] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock[0].release()

    @property
    def finished(self) -> bool:
        """Whether the run is finished: the pipeline is written last, and atomically."""
        return distributed.on_main_process(self.pipeline.is_dir)

    @property
    def begun(self) -> bool:
        """Whether the folder has a run, finished or not."""
        return distributed.on_main_process(self.config.is_file)

    def check_free(self) -> None:
        """Check that a new run may use the folder.

        Raises:
            DistillkitError: the folder is not empty, or cannot be read.
        """
        distributed.on_main_process(self._check_free)

    def _check_free(self) -> None:
        try:
            # A run that was killed before it wrote its config leaves its lock, and a config that it was writing.
            taken = self.path.exists() and (
                not self.path.is_dir()
                or any(name not in (LOCK, LOCK + OWNER) and not is_aside(name) for name in os.listdir(self.path))
            )
        except OSError as error:
            raise DistillkitError(f"{self.path}: cannot be read ({error.strerror})") from None
        if taken:
            holds = "a run" if self.config.exists() else "something that is not a run"
            raise DistillkitError(
                f"{self.path}: already holds {holds}; nothing was overwritten. Give another folder with --output, "
                f"another run.name{', or go on with --resume' if self.config.exists() else ''}"
            )

    def create(self, tables: dict[str, Any]) -> None:
        """Start a new run: create and lock the folder, and write the resolved config.

        Args:
            tables: the resolved config.

        Raises:
            DistillkitError: the folder cannot be written, or another run has locked it.
        """

        def make() -> None:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                self._check_links()
                self._acquire()
                self._check_free()
                write_text(self.config, tomli_w.dumps(tables))
            except OSError as error:
                raise DistillkitError(f"{error.filename or self.path}: cannot be written ({reason(error)})") from None

        distributed.on_main_process(make, self.path)

    def _acquire(self) -> None:
        """Lock the folder.

        Raises:
            DistillkitError: another run has locked it.
        """
        lock = file_lock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise DistillkitError(
                f"{self.path}: another run is using this folder; wait until it has ended, stop it, or give another "
                "folder with --output"
            ) from None
        self._lock = lock, os.lstat(lock.lock_file)

    def check_lock(self) -> None:
        """Check in the main process, before something is written, that this run still has the folder.

        Raises:
            DistillkitError: the lock's file was deleted, so that another run may have the folder by now.
        """
        if self._lock is None:
            return
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(self._lock[0].lock_file), self._lock[1]):
                return
        raise DistillkitError(
            f"{self.path / LOCK}: was deleted or replaced during the run, so that another run may be using the "
            "folder: nothing more is written; see that there is none, and go on with --resume"
        )

    def _check_links(self) -> None:
        """Check that the folder, which may be from somebody else, has files and folders only.

        Raises:
            DistillkitError: there is a link, which may lead out of it, or a pipe or a device, which may never end.
        """
        for path, kind in strangers(self.path):
            advice = "put what it leads to there" if path.is_symlink() else "take it away"
            raise DistillkitError(f"{path}: is {kind}, which a run's folder must not have: {advice}")

    def check_idle(self) -> None:
        """Check that no run is using the folder.

        Raises:
            DistillkitError: a run is, or the folder has links.
        """
        self._check_links()
        try:
            with file_lock(self.path / LOCK).acquire(timeout=0):
                pass
        except Timeout:
            raise DistillkitError(
                f"{self.path}: the run is still going on, and its tracker sends it meanwhile; try again when it is over"
            ) from None

    def discard(self) -> None:
        """Delete the folder of a run that could not start."""
        if distributed.is_main_process():
            shutil.rmtree(self.path, ignore_errors=True)

    def open(self, tables: dict[str, Any], ignore: Collection[str] = (), allow: Collection[str] = ()) -> list[str]:
        """Resume the run in the folder: lock the folder, and compare the config.

        Args:
            tables: the resolved config.
            ignore: keys and tables that are not compared.
            allow: keys or tables in which the user allows differences.

        Returns:
            The keys that differ, without those in `FREE`.

        Raises:
            DistillkitError: there is no run, another process is using it, its config differs in other keys, or the
                folder has links.
        """

        def take() -> dict[str, Any]:
            if not self.config.is_file():
                raise DistillkitError(f"{self.path}: holds no run to resume (no config.toml)")
            self._check_links()
            self._acquire()
            for folder in (self.path, self.samples, self.samples / "during"):
                sweep(folder)
            return tomllib.loads(read_text(self.config))

        before = distributed.on_main_process(take, self.path)
        differing = sorted(key for key in _differences(before, tables) if not _is_among(key, ignore))
        changed = [key for key in differing if re.sub(r"^phase\[\d+\]\.", "", key) not in FREE]
        if refused := [key for key in changed if not _is_among(key, allow)]:
            flags = " ".join(f"--allow-change {key}" for key in refused)
            raise DistillkitError(
                f"{self.path}: the config has changed since the run began, in {', '.join(refused)}; "
                f"resume with the run's own config: distillkit run {self.config} --output {self.path} --resume; or "
                f"allow the change: {flags}"
            )
        return changed

    def write_config(self, tables: dict[str, Any]) -> None:
        """Write config.toml."""
        distributed.on_main_process(lambda: write_text(self.config, tomli_w.dumps(tables)), self.config)

    def read_scores(self) -> list[dict[str, Any]]:
        """The rows of scores.json; empty if there is no such file."""

        return distributed.on_main_process(lambda: read_scores(self.scores) if self.scores.exists() else [])

    def write_scores(self, rows: list[dict[str, Any]]) -> None:
        """Write scores.json."""

        def write() -> None:
            self.check_lock()
            write_text(self.scores, json.dumps(rows, indent=1) + "\n")

        distributed.on_main_process(write, self.scores)


def _is_among(key: str, allowed: Collection[str]) -> bool:
    """Whether a key is one of the allowed keys, or lies in an allowed table."""
    return any(key == one or key.startswith((f"{one}.", f"{one}[")) for one in allowed)


def _differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Yield the TOML keys at which two configs differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before.keys() | now.keys():
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _differences(one, other, f"{key}[{i}]")
    elif before != now:
        yield key
