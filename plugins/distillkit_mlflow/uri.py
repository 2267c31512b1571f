"""URIs of stores: their files, their mistakes, and their text without credentials."""

from __future__ import annotations

import re
import textwrap
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import unquote, urlsplit

from distillkit.errors import HIDDEN, QUERY, DistillkitError, redact

STORES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")
"""The stores of MLflow itself. Other packages add stores by an entry point."""

_PASSWORD = re.compile(r"://[^/:@]*:(.*)@")
"""The password in a URI alone."""


def redact_uri(uri: str) -> str:
    """A URI without its credentials, which, unlike those in a text, may contain spaces."""
    return redact(uri.replace(" ", "%20")).replace("%20", " ")


def redact_about(uri: str, text: str) -> str:
    """Remove credentials from a message about a store, which may contain its URI, or its password alone."""
    text = text.replace(uri, redact_uri(uri))
    for secret in [*_PASSWORD.findall(uri), *(value for _, value in QUERY.findall(uri))]:
        for form in filter(None, (secret, unquote(secret))):
            text = text.replace(form, HIDDEN)
    return redact(text)


def scheme(uri: str) -> str:
    """`sqlite`, `postgresql` (the driver after + is left out), `https`, …; empty for a path."""
    found = re.match(r"[A-Za-z][A-Za-z0-9-]*", uri)
    return found[0].lower() if found and (uri == "databricks" or uri[found.end() :].startswith((":", "+"))) else ""


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite URI (`sqlite:///` + path); None for every other store."""
    if scheme(uri) != "sqlite":
        return None
    return Path(uri.partition(":///")[2].partition("?")[0]).absolute()


def absolute(uri: str) -> str:
    """The URI with an absolute path, if it is that of a SQLite file."""
    file = sqlite_file(uri)
    if file is None:
        return uri
    head, _, rest = uri.partition(":///")
    _, mark, query = rest.partition("?")
    return f"{head}:///{file}{mark}{query}"


def artifact_root(uri: str) -> str | None:
    """The folder of a new experiment's artifacts: beside a SQLite file, else in the working directory.

    Returns:
        A file URI; None for a tracking server, which decides itself.
    """
    if scheme(uri) in ("http", "https", "databricks"):
        return None
    file = sqlite_file(uri)
    return ((file.parent if file else Path.cwd()) / "mlartifacts").as_uri()


def mistake(uri: str) -> str | None:
    """The mistake in a URI, as far as it can be seen without opening the store; None if there is none."""
    kind = scheme(uri)
    if kind in ("", "file"):
        return f"MLflow has no file stores any more; write sqlite:///mlflow.db (got '{redact_uri(uri)}')"
    if kind not in STORES and kind not in {point.name for point in entry_points(group="mlflow.tracking_store")}:
        # The text is not shown: the apparent scheme may be a user's name, and the rest a password.
        return f"MLflow has no such store; expected one of {', '.join(f'{name}:' for name in STORES)}"
    if kind in ("http", "https"):
        try:
            known = bool(urlsplit(uri).hostname) and urlsplit(uri).port != 0
        except ValueError:
            known = False
        if not known:
            return f"must name a server, as in http://127.0.0.1:5000 (got '{redact_uri(uri)}')"
    file = sqlite_file(uri)
    if file is not None and file.is_dir():
        return f"must name a file, as in sqlite:///mlflow.db (got '{redact_uri(uri)}')"
    if file is not None and not file.parent.is_dir():
        return f"the folder {file.parent} does not exist; create it, or name another file"
    return None


def describe(uri: str, error: Exception) -> str:
    """The message of a store's error, in one line and without credentials."""
    lines = redact_about(uri, str(error)).splitlines() or [""]
    if isinstance(error, DistillkitError):
        return lines[0]
    if scheme(uri) in ("http", "https") and (cause := _of_the_connection(error)) is not None:
        return f"{redact_uri(uri)} does not answer: {cause}"
    return f"{type(error).__name__}: {textwrap.shorten(lines[0], 300, placeholder=' …')}"


def _of_the_connection(error: BaseException) -> str | None:
    """Why a server could not be reached: the system's words, deep in what the libraries make of it; None otherwise."""
    found, cause = None, error.__cause__ or error.__context__
    while cause is not None:
        found = cause.strerror if isinstance(cause, OSError) and cause.strerror else found
        cause = cause.__cause__ or cause.__context__
    return found
