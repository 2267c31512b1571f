"""The trackers, against a real SQLite store that is read back through MLflow's own client.

tests/test_tracking.py has the stores that fail.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from distillkit_mlflow.folder import flatten
from distillkit_mlflow.store import open_store
from distillkit_mlflow.sync import Sync
from distillkit_mlflow.tracker import MlflowTracker
from distillkit_mlflow.uri import sqlite_file
from helpers.digits import MODEL, PLAIN, distil
from helpers.run_folders import RunFolder, pixels
from PIL import Image

from distillkit.errors import DistillkitError
from distillkit.interfaces import Tracker
from distillkit.interfaces.tracker import Status
from distillkit.registry import load_registry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SECRET = "s3cr/et@x"
SETTINGS = {
    "run": {"name": "first", "method": "dsdi", "updates": 4, "log_every": 3},
    "model": {"type": "diffusers", "path": f"https://me:{SECRET}@models.example/teacher"},
    "loss": [{"type": "x-mse", "weight": 0.85}, {"type": "v-mse", "weight": 0.15}],
    "optimizer": {"betas": [0.9, 0.98]},
    "notes": {"long": "x" * 7000},
}
EVERY = {"run": {"name": "first", "log_every": 1}}


@pytest.fixture(scope="module")
def uri(store_uri: str) -> str:
    return store_uri


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return open_store(uri)


class Sender(MlflowTracker):
    """Starts no process, which takes seconds: the test has the run sent, by the same code."""

    def _start_process(self) -> None:
        pass


def make(uri: str) -> MlflowTracker:
    return Sender(MlflowTracker.Options(uri=uri))


def read_run(client: MlflowClient, uri: str, folder: Path) -> Run:
    return client.get_run(json.loads((folder / "mlflow.json").read_text())[uri])


def curve(client: MlflowClient, run: Run, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def pictures(client: MlflowClient, run: Run) -> list[str]:
    """The names of pictures in full size."""
    names = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    return sorted(name for name in names if name.endswith(".png"))


def series(names: list[str]) -> list[str]:
    return [name.partition("+timestamp")[0].removeprefix("images/") for name in names]


def test_a_run_is_recorded_whole(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, SETTINGS)
    tracker = MlflowTracker(MlflowTracker.Options(uri=uri))
    tracker.start(run.info())
    run.update(1)
    tracker.sync()
    while not (tmp_path / "mlflow.json").is_file():
        time.sleep(0.05)
    for update in range(2, 8):
        run.update(update)
    run.evaluation(4, 20.5)
    tracker.sync()
    while not curve(client, found := read_run(client, uri, tmp_path), "during/fd-fashion/steps-4"):
        time.sleep(0.05)
    assert found.info.status == "RUNNING"
    run.end()
    tracker.finish("finished")
    # On a slow machine its process may need longer; this waits for it.
    assert tracker.send(tmp_path) == f"{tmp_path} -> {uri}: nothing was missing"

    found = read_run(client, uri, tmp_path)
    assert (found.info.run_name, found.info.status) == ("first", "FINISHED")
    assert client.get_experiment(found.info.experiment_id).name == "distillkit"
    assert found.data.tags["method"] == "dsdi"
    assert json.loads(found.data.tags["plan"]) == [
        {"steps": 4, "updates": 3, "evaluations": 6},
        {"steps": 2, "updates": 1, "evaluations": 2},
    ]
    assert found.data.params["run.updates"] == "4"
    assert found.data.params["loss.1.type"] == "v-mse"
    assert found.data.params["optimizer.betas"] == "[0.9, 0.98]"
    assert found.data.params["notes.long"] == "x" * 5999 + "…"
    # run.log_every is 3.
    assert curve(client, found, "loss") == [(3, 2.0), (6, 5.0), (7, 7.0)]
    assert curve(client, found, "seconds") == [(3, 1.5), (6, 3.0), (7, 3.5)]
    assert curve(client, found, "during/fd-fashion/steps-4") == [(4, 20.5)]
    assert curve(client, found, "student/fd-fashion/steps-4") == [(7, 15.25)]
    assert curve(client, found, "teacher/fd-fashion/steps-4") == [(7, 58.5)]
    times = [point.timestamp - found.info.start_time for point in client.get_metric_history(found.info.run_id, "loss")]
    assert times == [1500, 3000, 3500]

    store = sqlite_file(uri)
    assert store is not None
    artifacts = Path(found.info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(store.parent / "mlartifacts")
    for name in ("scores.json", "journal.jsonl"):
        assert (artifacts / name).read_bytes() == (tmp_path / name).read_bytes()
    names = pictures(client, found)
    assert series(names) == ["during~steps-4+step+4", "samples+step+4"]
    np.testing.assert_array_equal(np.asarray(Image.open(artifacts / names[1])), pixels(200))


def test_means_leave_out_what_was_skipped(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, SETTINGS)
    tracker = make(uri)
    tracker.start(run.info())
    for update in range(1, 7):
        skipped = {"loss": None, "loss/4": None, "grad_norm": None, "skipped": True}
        run.update(update, **(skipped if update > 2 else {}), **({"loss/4": 3.0} if update == 2 else {}))
    run.update(7, rollbacks=1, **{"loss/1": 2.5, "gradient/x-mse": 0.25, "critic_loss": 1.5})
    tracker.finish("finished")
    tracker.send(tmp_path)
    found = read_run(client, uri, tmp_path)
    assert curve(client, found, "loss") == [(3, 1.5), (7, 7.0)]
    # Not every update has a sample of each level.
    assert (curve(client, found, "loss/4"), curve(client, found, "loss/1")) == ([(3, 3.0)], [(7, 2.5)])
    assert (curve(client, found, "gradient/x-mse"), curve(client, found, "critic_loss")) == ([(7, 0.25)], [(7, 1.5)])
    assert [step for step, _ in curve(client, found, "learning_rate")] == [3, 6, 7]
    assert curve(client, found, "rollbacks") == [(7, 1.0)]


def test_a_resumed_run_goes_on_in_the_same_one(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, EVERY)
    tracker = make(uri)
    tracker.start(run.info())
    for update in (1, 2, 3):
        run.update(update)
    run.evaluation(2, 9.0)
    tracker.finish("killed")
    assert tracker.send(tmp_path) == f"{tmp_path} -> {uri}: sent 1 run, 16 points, 1 picture"
    before = read_run(client, uri, tmp_path)
    assert before.info.status == "KILLED"

    # The checkpoint was at update 1, so that 2 and 3 come a second time, and take longer.
    run.cut(1)
    (tmp_path / "curves.jsonl").unlink()
    tracker.start(run.info(resumed=True))
    for update in (2, 3, 4):
        run.update(update, seconds=update * 2.0)
        if update % 2 == 0:
            run.evaluation(update, 9.0)
    tracker.finish("failed")
    assert tracker.send(tmp_path) == f"{tmp_path} -> {uri}: sent 6 points, 1 picture"
    assert tracker.send(tmp_path) == f"{tmp_path} -> {uri}: nothing was missing"

    after = read_run(client, uri, tmp_path)
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FAILED"
    assert after.data.params == before.data.params
    assert curve(client, after, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert curve(client, after, "seconds") == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 8.0)]
    assert series(pictures(client, after)) == ["during~steps-4+step+2", "during~steps-4+step+4"]


def test_a_journal_that_is_rewritten_while_it_is_sent(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    """A run that goes back to a checkpoint: repeated steps keep their first points."""
    run = RunFolder(tmp_path, EVERY)
    tracker = make(uri)
    tracker.start(run.info())
    sync = Sync(uri, tmp_path, print, print)
    for update in (1, 2, 3):
        run.update(update)
    sync.send(over=False)
    run.cut(1)
    sync.send(over=False)
    for update in (2, 3, 4, 5):
        run.update(update, loss=-update)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"update": 6, "lo')
    sync.send(over=False)
    found = read_run(client, uri, tmp_path)
    assert (found.info.status, curve(client, found, "loss")) == (
        "RUNNING",
        [(1, 1.0), (2, 2.0), (3, 3.0), (4, -4.0), (5, -5.0)],
    )


@pytest.mark.parametrize("status", ["failed", "killed", None])
def test_the_last_updates_of_a_run_that_was_stopped_are_shown(
    uri: str, client: MlflowClient, tmp_path: Path, status: Status | None
) -> None:
    """Between two points of the curves; None: without its own word."""
    run = RunFolder(tmp_path, SETTINGS)
    tracker = make(uri)
    tracker.start(run.info())
    for update in range(1, 6):
        run.update(update)
    Sync(uri, tmp_path, print, print).send(over=False)
    assert curve(client, read_run(client, uri, tmp_path), "loss") == [(3, 2.0)]
    if status is not None:
        tracker.finish(status)
    tracker.send(tmp_path)
    assert curve(client, read_run(client, uri, tmp_path), "loss") == [(3, 2.0), (5, 4.5)]
    run.update(6)
    tracker.start(run.info(resumed=True))
    tracker.finish("killed")
    tracker.send(tmp_path)
    assert curve(client, read_run(client, uri, tmp_path), "loss") == [(3, 2.0), (5, 4.5), (6, 5.0)]


def test_a_run_that_mlflow_has_not_is_a_new_one(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, SETTINGS)
    missing = "0123456789abcdef0123456789abcdef"
    (tmp_path / "mlflow.json").write_text(json.dumps({uri: missing}))
    (tmp_path / "mlflow.sent.jsonl").write_text(f'["{missing}", "scores.json", "0"]\n["{missing}", "sc')
    tracker = make(uri)
    tracker.start(run.info(resumed=True))
    run.end()
    tracker.finish("finished")
    assert tracker.send(tmp_path) == f"{tmp_path} -> {uri}: sent 1 run, 2 points, 1 picture, 2 files"
    found = read_run(client, uri, tmp_path)
    assert found.info.run_id != missing
    assert found.data.params["run.method"] == "dsdi"
    # The run is found by its tag, whatever becomes of the cursor.
    (tmp_path / "mlflow.json").write_text("{")
    assert tracker.send(tmp_path) == f"{tmp_path} -> {uri}: nothing was missing"
    assert read_run(client, uri, tmp_path).info.run_id == found.info.run_id
    # Names of pictures do not change, so that one that is sent again is there once.
    (tmp_path / "mlflow.sent.jsonl").unlink()
    assert tracker.send(tmp_path) == f"{tmp_path} -> {uri}: sent 1 picture, 2 files"
    assert len(pictures(client, found)) == 1


def test_a_run_made_with_another_tracker(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, EVERY)
    run.update(1)
    run.end()
    assert make(uri).send(tmp_path) == f"{tmp_path} -> {uri}: sent 1 run, 5 points"
    assert read_run(client, uri, tmp_path).info.status == "KILLED"
    (tmp_path / "pipeline").mkdir()
    assert make(uri).send(tmp_path) == f"{tmp_path} -> {uri}: sent 2 points, 1 picture, 3 files"
    found = read_run(client, uri, tmp_path)
    assert (found.info.run_name, found.info.status) == ("first", "FINISHED")


def test_phases_made_with_another_tracker(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    above = RunFolder(tmp_path, {"run": {"name": "first"}, "phase": [EVERY]})
    below = RunFolder(tmp_path / "phases/1", EVERY)
    below.update(1)
    assert make(uri).send(above.path) == f"{above.path} -> {uri}: sent 2 runs, 5 points"
    found = [read_run(client, uri, run.path) for run in (above, below)]
    assert found[1].data.tags["mlflow.parentRunId"] == found[0].info.run_id


def test_the_process_that_sends_does_not_import_torch() -> None:
    """It would take as long again as MLflow."""
    code = "import sys, distillkit_mlflow.shipper; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_another_store_gets_the_same(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    """However often the run was stopped, and sent in between: the first one has points of these stops besides."""
    run = RunFolder(tmp_path / "run", SETTINGS)
    tracker = make(uri)
    for update in range(1, 9):
        tracker.start(run.info(resumed=update > 1))
        if update > 1:
            run.cut(update - 2)
        for again in range(max(1, update - 1), update + 1):
            run.update(again)
        if update == 5:
            run.evaluation(5, 3.0)
        tracker.finish("killed")
        tracker.send(run.path)
    run.end()
    (run.path / "pipeline").mkdir()
    tracker.send(run.path)

    store = sqlite_file(uri)
    assert store is not None
    shutil.copy(store, tmp_path / "other.db")
    other = f"sqlite:///{tmp_path}/other.db"
    found = [(client, read_run(client, uri, run.path))]
    client.delete_run(found[0][1].info.run_id)
    second = open_store(other)
    second.delete_run(found[0][1].info.run_id)
    make(other).send(run.path)
    client.restore_run(found[0][1].info.run_id)
    found.append((second, read_run(second, other, run.path)))
    assert found[0][1].info.run_id != found[1][1].info.run_id
    points, names = [], []
    for where, each in found:
        history = [where.get_metric_history(each.info.run_id, key) for key in sorted(each.data.metrics)]
        points.append([(point.key, point.step, point.value, point.timestamp) for part in history for point in part])
        names.append(pictures(where, each))
    assert len(points[1]) == 18
    stopped = set(points[0]) - set(points[1])
    assert {step for _, step, _, _ in stopped} == {1, 2, 4, 5, 7}
    assert sorted(points[1]) == sorted(set(points[0]) - stopped)
    assert names[0] == names[1]
    assert found[0][1].data.params == found[1][1].data.params


def test_two_runs_at_once_do_not_mix(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    runs = [RunFolder(tmp_path / name, EVERY) for name in "ab"]
    trackers = [make(uri), Sender(MlflowTracker.Options(uri=uri, experiment="another"))]
    for run, tracker in zip(runs, trackers, strict=True):
        tracker.start(run.info(name=run.path.name))
    for value, run in enumerate(runs):
        run.update(1, loss=value)
    for run, tracker in zip(runs, trackers, strict=True):
        tracker.finish("finished")
        tracker.send(run.path)
    found = [read_run(client, uri, run.path) for run in runs]
    assert [run.data.metrics["loss"] for run in found] == [0.0, 1.0]
    assert [client.get_experiment(run.info.experiment_id).name for run in found] == ["distillkit", "another"]


def test_a_phase_is_nested_in_its_run(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    above = RunFolder(tmp_path / "phases", {"run": {"name": "first"}, "phase": [EVERY]})
    below = RunFolder(above.path / "phases/1", EVERY)
    tracker = make(uri)
    tracker.start(above.info())
    tracker.start(below.info(parent=above.path))
    below.update(1)
    tracker.finish("finished")
    # As a run with several phases does in the end.
    above.update(1, phase=1)
    above.end()
    tracker.finish("finished")
    message = f"{below.path}: is a phase of the run {above.path}: send the whole run with distillkit track {above.path}"
    with pytest.raises(DistillkitError, match=f"^{re.escape(message)}$"):
        tracker.send(below.path)
    assert tracker.send(above.path) == f"{above.path} -> {uri}: sent 2 runs, 7 points, 5 files"
    found = [read_run(client, uri, run.path) for run in (above, below)]
    assert [run.info.status for run in found] == ["FINISHED", "FINISHED"]
    assert found[1].data.tags["mlflow.parentRunId"] == found[0].info.run_id
    assert found[0].data.metrics == {"teacher/fd-fashion/steps-4": 58.5, "student/fd-fashion/steps-4": 15.25}
    assert found[1].data.metrics["loss"] == 1.0


def test_credentials_go_nowhere(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    text = f'[tracker]\nuri = "postgresql://me:{SECRET}@db.example/runs?sslpassword=hush&x=1"\n'
    run = RunFolder(tmp_path, SETTINGS)
    with (tmp_path / "config.toml").open("a") as file:
        file.write(text)
    tracker = make(uri)
    tracker.start(run.info())
    tracker.finish("finished")
    tracker.send(tmp_path)
    found = read_run(client, uri, tmp_path)
    assert found.data.params["model.path"] == "https://***@models.example/teacher"
    artifact = Path(found.info.artifact_uri.removeprefix("file://")) / "config.toml"
    shown = '[tracker]\nuri = "postgresql://***@db.example/runs?sslpassword=***&x=1"\n'
    assert artifact.read_text().endswith(shown)
    assert SECRET not in artifact.read_text()
    assert SECRET in (tmp_path / "config.toml").read_text()


def test_flatten_keeps_every_leaf() -> None:
    tables = {"a": {"b": {"c": 1}}, "metric": [], "loss": [{"type": "x"}], "on": True}
    assert flatten(tables) == {"a.b.c": "1", "metric": "[]", "loss.0.type": "x", "on": "True"}


def test_a_start_that_fails_names_the_key_and_hides_the_password(tmp_path: Path) -> None:
    # No such dialect is installed, so that SQLAlchemy fails at once, without a network.
    tracker = make(f"mssql+pyodbc://me:{SECRET}@db.example/runs")
    with pytest.raises(DistillkitError) as caught:
        tracker.start(RunFolder(tmp_path, SETTINGS).info())
    message = str(caught.value)
    assert message.startswith("tracker.uri: MLflow cannot record the run in mssql+pyodbc://***@db.example/runs: ")
    assert message.endswith('; correct it, or set tracker.type = "none"')
    assert SECRET not in message
    assert not (tmp_path / "mlflow.json").exists()


def test_what_the_store_refuses_goes_missing_alone(
    uri: str, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make(uri)
    run = RunFolder(tmp_path, {"a parameter's %": 1, "seed": 2, **EVERY})
    tracker.start(run.info())
    line = {"update": 1, "scores": {"a metric's %": 2.0, "fid": 1.0}}
    (tmp_path / "curves.jsonl").write_text(json.dumps(line) + "\n")
    tracker.finish("finished")
    with caplog.at_level(logging.WARNING, logger="distillkit_mlflow"):
        tracker.send(tmp_path)
    found = read_run(client, uri, tmp_path)
    assert found.data.params == {"seed": "2", "run.name": "first", "run.log_every": "1"}
    assert (found.data.metrics, found.info.status) == ({"during/fid": 1.0}, "FINISHED")
    refused = [record.getMessage().partition(": ")[0] for record in caplog.records]
    assert refused == ["MLflow refuses a parameter's %", "MLflow refuses during/a metric's %"]


def test_a_store_that_cannot_be_opened_leaves_no_folder(tmp_path: Path) -> None:
    tables = (MODEL + PLAIN).replace('"none"', '"mlflow"\nuri = "mssql+pyodbc://db.example/runs"')
    options = ("run.updates=1", "schedule.start=2", "source.batch=2")
    with pytest.raises(DistillkitError, match=r"^tracker\.uri: MLflow cannot record the run in mssql"):
        distil(tmp_path, "dsdi", *options, tables=tables)
    assert not (tmp_path / "run").exists()
    assert len(distil(tmp_path, "dsdi", *options).journal) == 1


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mlruns", "MLflow has no file stores any more; write sqlite:///mlflow.db (got 'mlruns')"),
        (
            "sqlite:////no/such/folder/mlflow.db",
            "the folder /no/such/folder does not exist; create it, or name another file",
        ),
        ("sqlite:////tmp", "must name a file, as in sqlite:///mlflow.db (got 'sqlite:////tmp')"),
        (
            "htp://host",
            "MLflow has no such store; expected one of "
            "sqlite:, postgresql:, mysql:, mssql:, http:, https:, databricks:",
        ),
        ("http://me:pw@:5000", "must name a server, as in http://127.0.0.1:5000 (got 'http://***@:5000')"),
        ("http://host:99999", "must name a server, as in http://127.0.0.1:5000 (got 'http://host:99999')"),
        (
            "http://***@host",
            "has no credentials (http://***@host): set MLFLOW_TRACKING_URI to the complete URI, or set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD and leave the credentials out",
        ),
        ("sqlite:///mlflow.db", None),
        ("postgresql+psycopg2://me:pw@[::1]:5432/runs", None),
        ("databricks", None),
    ],
)
def test_mistakes_in_the_uri(uri: str, said: str | None) -> None:
    assert [mistake.message for mistake in make(uri).check()] == ([] if said is None else [said])


def test_a_run_that_was_deleted_is_no_reason_to_lose_it(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    tracker = make(uri)
    run = RunFolder(tmp_path, EVERY)
    tracker.start(run.info())
    run.update(1)
    tracker.finish("finished")
    tracker.send(tmp_path)
    first = read_run(client, uri, tmp_path)
    client.delete_run(first.info.run_id)
    assert tracker.send(tmp_path) == f"{tmp_path} -> {uri}: sent 1 run, 5 points, 2 files"
    second = read_run(client, uri, tmp_path)
    assert (second.data.params, second.data.metrics) == (first.data.params, first.data.metrics)
    client.restore_run(first.info.run_id)
    client.delete_run(first.info.run_id)


def test_pictures_have_the_names_that_mlflow_gives_them(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    tracker = make(uri)
    run = RunFolder(tmp_path, EVERY)
    tracker.start(run.info())
    run.evaluation(20, 1.0)
    tracker.finish("finished")
    tracker.send(tmp_path)
    ours = read_run(client, uri, tmp_path)
    theirs = client.create_run(ours.info.experiment_id)
    client.log_image(theirs.info.run_id, pixels(20), key="during/steps-4", step=20, synchronous=True)
    masked, sizes = [], []
    for run in (ours, client.get_run(theirs.info.run_id)):
        names = sorted(file.path for file in client.list_artifacts(run.info.run_id, "images"))
        masked.append([re.sub(r"timestamp\+\d+|[0-9a-f]{8}-[0-9a-f-]{27}", "", name) for name in names])
        artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
        sizes.append([np.asarray(Image.open(artifacts / name)).shape for name in names])
        assert run.data.tags["mlflow.loggedImages"] == "True"
    assert masked[0] == masked[1]
    assert len(masked[0]) == 2
    assert sizes[0] == sizes[1]


def test_both_trackers_are_registered_and_none_records_nothing(tmp_path: Path) -> None:
    registry = load_registry()
    assert registry.find("tracker", "mlflow") is MlflowTracker
    component = registry.find("tracker", "none")
    tracker = component(component.Options())
    assert isinstance(tracker, Tracker)
    tracker.start(RunFolder(tmp_path, EVERY).info())
    tracker.sync()
    tracker.finish("finished")
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    with pytest.raises(DistillkitError, match=r"^the tracker 'none' has no UI$"):
        tracker.open_ui(5000)
    with pytest.raises(
        DistillkitError, match=r"^the tracker 'none' does not send runs anywhere: name a store with --uri$"
    ):
        tracker.send(tmp_path)


def test_ui_wants_a_store(tmp_path: Path) -> None:
    with pytest.raises(DistillkitError, match=r"no run was recorded in sqlite:///.*/none.db yet"):
        make(f"sqlite:///{tmp_path}/none.db").open_ui(5000)
    with pytest.raises(DistillkitError, match=r"http://\*\*\*@host:1 is a server with its own UI"):
        make("http://me:pw@host:1").open_ui(5000)


@pytest.fixture
def ui(uri: str, client: MlflowClient, tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """`open_ui` in a process group of its own, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = (
        "import sys; from distillkit_mlflow.tracker import MlflowTracker; "
        "MlflowTracker(MlflowTracker.Options(uri=sys.argv[1])).open_ui(int(sys.argv[2]))"
    )
    with (tmp_path / "ui.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", code, uri, str(port)], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield port, server
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def answer(port: int, server: subprocess.Popen[str], path: str, seconds: float = 90) -> bytes:
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
                return bytes(reply.read())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise AssertionError(f"no answer within {seconds} s; the server's status is {server.poll()}")


def test_the_ui_serves_runs_and_pictures_until_ctrl_c(
    uri: str, client: MlflowClient, tmp_path: Path, ui: tuple[int, subprocess.Popen[str]]
) -> None:
    port, server = ui
    tracker = make(uri)
    run = RunFolder(tmp_path, EVERY)
    tracker.start(run.info())
    run.end()
    tracker.finish("finished")
    tracker.send(tmp_path)
    run_id = read_run(client, uri, tmp_path).info.run_id
    image = next(file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png"))

    assert b"MLflow" in answer(port, server, "/")
    query = urllib.parse.urlencode({"path": image, "run_uuid": run_id})
    assert answer(port, server, f"/get-artifact?{query}").startswith(b"\x89PNG")
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait(timeout=30) == 0
