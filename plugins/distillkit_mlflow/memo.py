"""mlflow.json in the run's folder: which MLflow run it is, and how much of the record that run has."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from distillkit_mlflow.uri import redact_uri

MEMO = "mlflow.json"


@dataclass
class Memo:
    """
    Attributes:
        path: the file.
        uri: the store, without credentials.
        run_id: the MLflow run; None if none was made yet.
        sent: how many of the record's events the store has. Perhaps a few more: to send them again changes nothing.
    """

    path: Path
    uri: str
    run_id: str | None = None
    sent: int = 0

    def save(self) -> None:
        """Write the file whole or not at all."""
        aside = self.path.with_name(f".{self.path.name}.partial")
        content = {"run_id": self.run_id, "uri": self.uri, "sent": self.sent}
        aside.write_text(json.dumps(content) + "\n", encoding="utf-8")
        os.replace(aside, self.path)


def load_memo(folder: Path, uri: str, home: str) -> Memo:
    """What is known of a run in a store: mlflow.json for its own, mlflow-….json for another.

    Args:
        folder: the run's.
        uri: the store.
        home: the store that the run was to be recorded in, without credentials.
    """
    shown = redact_uri(uri)
    first = _read(folder / MEMO)
    if shown != (home if first is None else first.uri):
        other = folder / f"mlflow-{hashlib.sha256(shown.encode()).hexdigest()[:8]}.json"
        return _read(other) or Memo(other, shown)
    return first or Memo(folder / MEMO, shown)


def _read(path: Path) -> Memo | None:
    """None where there is none, or one that cannot be read: the store can be asked for the run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Memo(path, content["uri"], content["run_id"], content["sent"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
