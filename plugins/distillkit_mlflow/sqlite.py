"""SQLite stores: made whole or not at all, and told from those that MLflow cannot use. Does not import MLflow."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from filelock import Timeout

from distillkit.errors import DistillkitError
from distillkit.files import replacing
from distillkit.locks import file_lock

MAKING = 120.0
"""Seconds to wait for a new store that another process makes; it takes about ten."""

_REVISION = re.compile(r"""^(down_)?revision(?:: [^=]+)? = (.*)$""", re.MULTILINE)
"""What a migration of MLflow's says of itself: its own revision and those that it comes after."""


def is_missing(file: Path) -> bool:
    """Whether there is no store yet. A file without content is none."""
    return not file.exists() or file.stat().st_size == 0


def make(file: Path, fill: Callable[[Path], object]) -> None:
    """Make a new store, unless another process does so first.

    MLflow's migrations are not atomic, and two processes that run them at once break the store for good. So one process
    makes the store aside, under a lock, and renames it when it is complete.

    Args:
        file: the database file.
        fill: makes a store at a path where nothing is.

    Raises:
        DistillkitError: another process has been making the store for too long.
    """
    if is_missing(file):
        lock = file.with_name(f".{file.name}.lock")
        try:
            with file_lock(lock).acquire(timeout=MAKING):
                if is_missing(file):
                    with replacing(file) as temporary:
                        fill(temporary)
        except Timeout:
            raise DistillkitError(
                f"{file}: another process has been making this store for {MAKING:.0f} s: wait for it, or stop the "
                f"process that holds {lock}"
            ) from None


def check(file: Path, timeout: float = 3.0) -> None:
    """Check that MLflow can use an existing store as it is.

    Args:
        file: the database file.
        timeout: seconds to wait while another process locks the file. MLflow would wait for many minutes.

    Raises:
        DistillkitError: the store was left half made, is of an older or a newer MLflow, or is no MLflow store.
        sqlite3.OperationalError: the file is locked, or cannot be written.
    """
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=timeout)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            stamped = "alembic_version" in tables
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone() if stamped else None
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        raise DistillkitError(f"{file} is not a SQLite database: name another file") from None
    if tables and "experiments" not in tables:
        raise DistillkitError(f"{file} is a database, but not one of MLflow's: name another file")
    if found is None or any(name.startswith("_alembic_tmp_") for name in tables):
        raise DistillkitError(
            f"{file} was left half made by an MLflow that was stopped or disturbed while it made the store: move the "
            "file away (a new one is made), or put a backup in its place, and send the runs with distillkit track"
        )
    newest, known = revisions()
    if found[0] not in known:
        raise DistillkitError(f"{file} was made by a newer MLflow: install that one, or name another file")
    if found[0] != newest:
        raise DistillkitError(
            f"{file} was made by an older MLflow: make a copy of the file, then run: mlflow db upgrade sqlite:///{file}"
        )


@cache
def revisions() -> tuple[str, frozenset[str]]:
    """The newest revision of the installed MLflow's tables, and all."""
    package = find_spec("mlflow")
    assert package is not None
    assert package.origin is not None
    own: set[str] = set()
    before: set[str] = set()
    for path in (Path(package.origin).parent / "store/db_migrations/versions").glob("*.py"):
        for is_down, value in _REVISION.findall(path.read_text(encoding="utf-8")):
            (before if is_down else own).update(re.findall(r"[0-9a-z]{6,}", value))
    [newest] = own - before
    return newest, frozenset(own)
