"""Sends a run's folder to MLflow: during a run, after a failure, and for `distillkit track`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import mlflow
import mlflow.tracking.context.registry
from filelock import BaseFileLock

from distillkit.locks import file_lock
from distillkit_mlflow import store
from distillkit_mlflow.artifacts import Artifacts
from distillkit_mlflow.run import Run, attempt


def lock(folder: Path) -> BaseFileLock:
    """The lock of the process that sends a run."""
    return file_lock(folder / ".tracking.lock")


class Sync:
    """Sends a run, with its phases, to one store.

    Two threads may call `send_runs` and `send_files`, so that neither the tracking server nor the artifact store has to
    wait while the other one is slow or down.

    Args:
        uri: the store.
        folder: the run's folder, which has a record.
        tell: called with a message about each entry that the store refuses.
        note: called with a message about what else the user should know, where nothing is missing.
    """

    def __init__(self, uri: str, folder: Path, tell: Callable[[str], None], note: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self._uri = uri
        self._folder = folder
        self._tell = tell
        self._note = note
        self._client: mlflow.MlflowClient | None = None
        self._context: Mapping[str, str] | None = None
        self._runs: dict[Path, Run] = {}
        self._ids: dict[Path, str] = {}
        self._artifacts: dict[tuple[Path, str], Artifacts] = {}

    def send(self, over: bool) -> None:
        """Send everything that the store does not have yet.

        Args:
            over: whether the run has ended. If its record does not say how, it was killed.

        Raises:
            Exception: of MLflow. The next call asks the store what has arrived, and continues there.
        """
        attempt(lambda: self.send_runs(over), lambda: self.send_files(over))

    def send_runs(self, over: bool) -> None:
        """Send parameters, curves and status. The argument and the errors are those of `send`."""
        phases = sorted(self._folder.glob("phases/*/tracking.json"), key=lambda path: int(path.parent.name))
        try:
            if self._client is None:
                self._client = store.open_store(self._uri)
            if self._context is None:
                self._context = mlflow.tracking.context.registry.resolve_tags()
            parent = None
            for folder in (self._folder, *(path.parent for path in phases)):
                if folder not in self._runs:
                    self._runs[folder] = Run(
                        self._client, self._uri, folder, parent, self._context, self.counts, self._tell, self._note
                    )
                    self._ids[folder] = self._runs[folder].id
                self._runs[folder].send(over)
                parent = parent or self._runs[folder].id
        except Exception:
            self._runs.clear()
            raise

    def send_files(self, over: bool) -> None:
        """Send pictures and files, once the store has the run. The argument and the errors are those of `send`."""
        for key in list(self._ids.items()):
            if key not in self._artifacts and self._client is not None:
                self._artifacts[key] = Artifacts(self._client, *key, self.counts)
            self._artifacts[key].send(over)
