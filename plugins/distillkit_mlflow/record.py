"""tracking.json: what the tracker knows of a run besides its files, such as the store and the experiment."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from distillkit.errors import HIDDEN, DistillkitError
from distillkit.files import write_text
from distillkit_mlflow.uri import absolute, redact_uri

if TYPE_CHECKING:
    # At run time it would import torch.
    from distillkit.interfaces.tracker import Status

STORE = "sqlite:///mlflow.db"
"""The store if neither the config nor the environment names one."""

EXPERIMENT = "distillkit"
"""The experiment if neither the config nor the environment names one."""

URI_VARIABLE = "MLFLOW_TRACKING_URI"
"""The environment variable with the store, or with the complete URI if the config has it without credentials."""

TAGS_VARIABLE = "MLFLOW_RUN_TAGS"
"""The environment variable with tags for the MLflow run, a JSON object. distillkit's own: MLflow has none."""

_logger = logging.getLogger(__name__)


class Place(NamedTuple):
    """Where a run is recorded. It contains no credentials.

    Attributes:
        uri: `tracker.uri` of the config; None if it was left out.
        store: the store, with an absolute path.
        experiment: the name of the experiment; None if only its id is known.
        experiment_id: the id in MLFLOW_EXPERIMENT_ID, if that chose the experiment.
        run_id: the id in MLFLOW_RUN_ID.
        tags: those in MLFLOW_RUN_TAGS.
    """

    uri: str | None
    store: str
    experiment: str | None
    experiment_id: str | None
    run_id: str | None
    tags: dict[str, str]


@dataclass
class Record:
    """The content of tracking.json. It contains no credentials.

    Attributes:
        id: identifies the run in every store, as a tag.
        started: when the run began, in ms since the epoch.
        uri, store, experiment, experiment_id, run_id, tags: see `Place`.
        plan: steps, updates and all evaluations of each stage; None for a run made with another tracker.
        status: how the run ended; None while it is running, and if it was killed before it could be recorded.
        ended: when the run ended, in ms since the epoch.
    """

    id: str
    started: int
    uri: str | None = None
    store: str | None = None
    experiment: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    plan: list[dict[str, int]] | None = None
    status: Status | None = None
    ended: int | None = None


def choose_store(uri: str | None, record: Record | None) -> str:
    """The URI of the store of a run, with its credentials; with `***` if they are not known.

    A resumed run keeps its store unless `tracker.uri` has changed.

    Args:
        uri: `tracker.uri`.
        record: the run's record, if there is one.
    """
    environment = os.environ.get(URI_VARIABLE)
    before = record.store if record is not None and record.uri == _shown(uri) else None
    chosen = before or uri or environment or STORE
    if HIDDEN in chosen:
        chosen = next((each for each in (uri, environment) if each and HIDDEN not in each), chosen)
    return absolute(chosen)


def choose_place(uri: str | None, experiment: str | None, record: Record | None) -> Place:
    """Where a run is recorded: by the config, or else by the environment when the run was started.

    Args:
        uri: `tracker.uri`.
        experiment: `tracker.experiment`.
        record: the run's record, if there is one.
    """
    shown, store = _shown(uri), redact_uri(choose_store(uri, record))
    if record is None:
        name, number, run = (
            os.environ.get(f"MLFLOW_{what}") or None for what in ("EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID")
        )
        tags = _tags()
        if name is not None and number is not None and experiment is None:
            _logger.warning("MLFLOW_EXPERIMENT_NAME (%s) counts, and MLFLOW_EXPERIMENT_ID (%s) does not", name, number)
    else:
        tags = record.tags
        name, number, run = record.experiment, record.experiment_id, record.run_id
        if record.uri != shown:
            # These are ids of the previous store.
            number = run = None
    name = experiment or name
    if name is not None:
        number = None
    elif number is None:
        name = EXPERIMENT
    return Place(shown, store, name, number, run, tags)


def wrong_tags() -> str | None:
    """What is wrong with MLFLOW_RUN_TAGS; None if nothing is."""
    text = os.environ.get(TAGS_VARIABLE) or "{}"
    try:
        tags = json.loads(text)
    except (ValueError, RecursionError):
        tags = None
    if isinstance(tags, dict) and all(isinstance(value, str | int | float) for value in tags.values()):
        return None
    return f"""{TAGS_VARIABLE}: must be a JSON object, as in {{"team": "blue"}} (got '{text[:80]}')"""


def _tags() -> dict[str, str]:
    """The tags in MLFLOW_RUN_TAGS, by their names."""
    tags = json.loads(os.environ.get(TAGS_VARIABLE) or "{}")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in tags.items()}


def _shown(uri: str | None) -> str | None:
    return None if uri is None else redact_uri(uri)


def read_record(folder: Path) -> Record | None:
    """A run's record; None if there is none.

    Raises:
        DistillkitError: the file is damaged.
    """
    path = folder / "tracking.json"
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
    except (ValueError, TypeError) as error:
        raise DistillkitError(
            f"{path}: cannot be read ({error}): put a backup in its place, or delete it, after which the run is sent "
            "as a new one"
        ) from None


def begin(folder: Path, place: Place, plan: list[dict[str, int]] | None = None) -> None:
    """Write the record of a run that is started or resumed."""
    record = read_record(folder)
    if record is None:
        record = Record(str(uuid4()), round((folder / "config.toml").stat().st_mtime * 1000), plan=plan)
    _write(folder, asdict(record) | place._asdict() | {"status": None, "ended": None})


def end(folder: Path, status: Status) -> None:
    """Record how a run ended, if it has a record."""
    if (record := read_record(folder)) is not None:
        _write(folder, asdict(record) | {"status": status, "ended": round(time.time() * 1000)})


def outcome(folder: Path, record: Record, over: bool) -> Status | None:
    """How a run ended; None if it is running.

    Args:
        folder: the run's folder.
        record: the run's record.
        over: whether the run has ended. If its record does not say how, it was killed.
    """
    status = record.status or ("killed" if over else None)
    # With a pipeline, the run was killed after everything was written.
    return "finished" if status is not None and (folder / "pipeline").is_dir() else status


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    write_text(folder / "tracking.json", json.dumps(content) + "\n")
