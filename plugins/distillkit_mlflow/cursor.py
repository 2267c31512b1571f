"""The cursor: what was sent to which store, in mlflow.json and mlflow.sent.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from distillkit.files import write_text


class Runs:
    """mlflow.json: the id of the MLflow run in each store.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "mlflow.json"

    def read(self) -> dict[str, str]:
        """Run ids by store; empty if the file cannot be read, because the store can be asked."""
        try:
            return dict(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def write(self, store: str, run_id: str) -> None:
        """Add a store's run."""
        if (runs := self.read()).get(store) != run_id:
            write_text(self._path, json.dumps(runs | {store: run_id}) + "\n")


class Sent:
    """mlflow.sent.jsonl: the files that were sent to an MLflow run, with their SHA-256; a line for each time.

    Lines are only appended, so that the cost of a picture does not depend on how many were sent before.

    Args:
        folder: the run's folder.
        run_id: the id of the MLflow run.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self._path = folder / "mlflow.sent.jsonl"
        self._run_id = run_id
        self._digests = self._read()

    def _read(self) -> dict[str, str]:
        """Lines that cannot be read are left out: these files are sent again, which is harmless."""
        found: dict[str, str] = {}
        if self._path.is_file():
            with self._path.open(encoding="utf-8", errors="replace") as file:
                for text in file:
                    try:
                        run_id, name, digest = json.loads(text)
                    except ValueError:
                        continue
                    if run_id == self._run_id:
                        found[name] = digest
        return found

    def has(self, name: str, digest: str) -> bool:
        """Whether the run has the file with this content."""
        return self._digests.get(name) == digest

    def add(self, name: str, digest: str) -> None:
        """Add a file that was sent."""
        with self._path.open("a", encoding="utf-8") as file:
            # A killed process may have left an incomplete line.
            if (end := file.tell()) and not _ends_in_newline(self._path, end):
                file.write("\n")
            file.write(json.dumps([self._run_id, name, digest]) + "\n")
        self._digests[name] = digest


def _ends_in_newline(path: Path, end: int) -> bool:
    with path.open("rb") as file:
        file.seek(end - 1)
        return file.read() == b"\n"
