"""Store URIs: where their files lie, and how to show them without their credentials."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

_USER = re.compile(r"(?<=://)[^/\s:@]*(?::\S*)?@")
"""`user:password@` of any URI in a text, up to the last @: SQLAlchemy takes passwords that hold an @ or a slash."""

_QUERY = re.compile(r"(?i)((?:password|passwd|pwd|token|secret|api_?key|access_?key)=)[^&\s'\"]*")
"""Credentials among a URI's query parameters."""


def redact(text: str) -> str:
    """A text with the credentials of every URI in it replaced by `***`."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", text))


def scheme(uri: str) -> str:
    """`sqlite`, `postgresql` (the driver after + is left out), `https`, …; empty for a path."""
    return urlsplit(uri).scheme.partition("+")[0]


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI (`sqlite:///` + path); None for every other store."""
    if scheme(uri) != "sqlite":
        return None
    return Path(uri.partition(":///")[2].partition("?")[0]).absolute()


def artifact_root(uri: str) -> str | None:
    """Where a new experiment's artifacts go: beside a SQLite file, in the current folder for another database.

    Returns:
        a file URI; None for a tracking server, which knows where.
    """
    if scheme(uri) in ("http", "https", "databricks"):
        return None
    file = sqlite_file(uri)
    return ((file.parent if file else Path.cwd()) / "mlartifacts").as_uri()
