"""The tracker `mlflow`: every parameter, curve, picture and score of a run in an MLflow store."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.component import Component
from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import RunInfo, Tracker
from distillkit_mlflow.params import BATCH, cut, flatten
from distillkit_mlflow.uri import redact, scheme, sqlite_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from torch import Tensor

    from distillkit.interfaces.tracker import Status

_logger = logging.getLogger(__name__)

MEMO = "mlflow.json"
"""In the run's folder: which MLflow run it is, so that a resumed run goes on in the same one."""


class MlflowTracker(Tracker):
    """Records a run in MLflow. Once the run has started, a store that fails costs one warning, never the run."""

    name = "mlflow"
    has_ui = True

    class Options(Component.Options):
        """
        Attributes:
            uri: the tracking store: `sqlite:///` + file, a database, or a tracking server. A SQLite store's
                artifacts lie beside it in mlartifacts/.
            experiment: the MLflow experiment that the run belongs to.
        """

        uri: str = "sqlite:///mlflow.db"
        experiment: str = "distillkit"

    options: Options
    _client: MlflowClient
    _run_id: str

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._warned = False
        self._update = 0
        self._points: set[tuple[str, int]] = set()
        self._images: set[tuple[str, int]] = set()

    def check(self) -> Iterator[Mistake]:
        """The store must be one that MLflow has, and a SQLite file's folder must be there."""
        uri = self.options.uri
        if scheme(uri) in ("", "file"):
            yield Mistake("uri", f"MLflow has no file stores any more; write sqlite:///mlflow.db (got '{redact(uri)}')")
        file = sqlite_file(uri)
        if file is not None and not file.parent.is_dir():
            yield Mistake("uri", f"the folder {file.parent} is not there; make it, or name another file")

    def start(self, run: RunInfo) -> None:
        """Open the store and the run; a resumed run goes on in its old one, without writing a point twice.

        Raises:
            DistillkitError: the store cannot be opened or written to.
        """
        try:
            self._start(run)
        except Exception as error:
            # Messages of SQLAlchemy and MLflow may quote the URI, with its password.
            raise DistillkitError(
                f"tracker.uri: MLflow cannot record the run in {redact(self.options.uri)}: {redact(str(error))}; "
                'correct it, or set tracker.type = "none"'
            ) from None

    def _start(self, run: RunInfo) -> None:
        from distillkit_mlflow import store

        self._client = store.open_store(self.options.uri)
        memo = run.folder / MEMO
        if run.resumed and memo.is_file():
            self._run_id = json.loads(memo.read_text(encoding="utf-8"))["run_id"]
            if store.run_exists(self._client, self._run_id):
                self._client.update_run(self._run_id, status="RUNNING")
                self._points = store.logged_points(self._client, self._run_id)
                self._images = store.logged_images(self._client, self._run_id)
                self._update = max((update for _, update in self._points), default=0)
                return
        experiment = store.experiment_id(self._client, self.options.experiment, self.options.uri)
        plan = [{"steps": steps, "updates": updates, "evaluations": count} for steps, updates, count in run.plan]
        tags = {"method": str(run.settings.get("run", {}).get("method", "custom")), "plan": cut(json.dumps(plan))}
        if run.parent is not None and (above := run.parent / MEMO).is_file():
            tags["mlflow.parentRunId"] = json.loads(above.read_text(encoding="utf-8"))["run_id"]
        self._run_id = self._client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
        try:
            content = {"run_id": self._run_id, "uri": redact(self.options.uri)}
            memo.write_text(json.dumps(content) + "\n", encoding="utf-8")
            self._log_params(flatten(run.settings))
        except BaseException:
            self.finish("failed")
            raise

    def _log_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, value) for key, value in params.items()]
        for i in range(0, len(entries), BATCH):
            self._client.log_batch(self._run_id, params=entries[i : i + BATCH], synchronous=True)

    def log_metrics(self, metrics: Mapping[str, float], update: int) -> None:
        """Points of the curves at one update, written at once: asynchronous logging drops a batch on an error."""
        self._update = update
        new = {key: value for key, value in metrics.items() if (key, update) not in self._points}
        self._guard(lambda: self._log_points(new))

    def _log_points(self, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(key, float(value), now, self._update) for key, value in metrics.items()]
        self._client.log_batch(self._run_id, metrics=points, synchronous=True)

    def log_scores(self, scores: Sequence[Mapping[str, Any]]) -> None:
        """Each row as a metric `student/fd-fashion/steps-4`, and all of them as scores.json."""
        rows = {f"{row['model']}/{row['metric']}/steps-{row['steps']}": row["value"] for row in scores}
        self._guard(lambda: self._log_points(rows))
        self._guard(lambda: self._client.log_text(self._run_id, json.dumps(scores, indent=2), "scores.json"))

    def log_image(self, key: str, image: Tensor, step: int) -> None:
        """A picture, uint8 [H, W, 3]; MLflow's UI shows those of one key with a slider over `step`."""
        if (key, step) in self._images:
            return
        pixels = image.cpu().numpy()
        self._guard(lambda: self._client.log_image(self._run_id, pixels, key=key, step=step, synchronous=True))

    def log_file(self, path: Path) -> None:
        """A file as an artifact. A config goes without the credentials of its URIs."""
        if path.suffix == ".toml":
            text = redact(path.read_text(encoding="utf-8"))
            self._guard(lambda: self._client.log_text(self._run_id, text, path.name))
        else:
            self._guard(lambda: self._client.log_artifact(self._run_id, str(path)))

    def finish(self, status: Status) -> None:
        """Close the run as FINISHED, FAILED or KILLED."""
        self._guard(lambda: self._client.set_terminated(self._run_id, status.upper()))

    def open_ui(self, port: int) -> None:
        """Serve MLflow's UI on the store until it is stopped."""
        from distillkit_mlflow import ui

        ui.open_ui(self.options.uri, port)

    def _guard(self, write: Callable[[], object]) -> None:
        """Do a write; the first that fails is told, and the run goes on: the journal has everything."""
        try:
            write()
        except Exception as error:
            if not self._warned:
                self._warned = True
                _logger.warning(
                    "MLflow could not record a part of the run, which goes on: %s: %s",
                    type(error).__name__,
                    redact(str(error)),
                )
