"""The trackers, against a real SQLite store that is read back through MLflow's own client.

tests/test_tracking.py has the stores that fail.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from distillkit_mlflow.params import flatten
from distillkit_mlflow.store import open_store
from distillkit_mlflow.tracker import MlflowTracker
from distillkit_mlflow.uri import sqlite_file
from helpers.digits import MODEL, PLAIN, distil
from PIL import Image

from distillkit.errors import DistillkitError
from distillkit.interfaces import RunInfo, Tracker
from distillkit.registry import load_registry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SECRET = "s3cr/et@x"
SETTINGS = {
    "run": {"name": "first", "method": "dsdi", "updates": 4},
    "model": {"type": "diffusers", "path": f"https://me:{SECRET}@models.example/teacher"},
    "loss": [{"type": "x-mse", "weight": 0.85}, {"type": "v-mse", "weight": 0.15}],
    "optimizer": {"betas": [0.9, 0.98]},
    "notes": {"long": "x" * 7000},
}
SCORES = [
    {"model": "teacher", "steps": 4, "metric": "fd-fashion", "value": 58.5, "samples": 1000},
    {"model": "student", "steps": 4, "metric": "fd-fashion", "value": 15.25, "samples": 1000},
]


@pytest.fixture(scope="module")
def uri(store_uri: str) -> str:
    return store_uri


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return open_store(uri)


class Recorder(MlflowTracker):
    """Starts no process, which takes seconds: the test has the record sent, by the same code."""

    def _send(self) -> None:
        pass


def make(uri: str, experiment: str = "distillkit") -> MlflowTracker:
    return Recorder(MlflowTracker.Options(uri=uri, experiment=experiment))


def info(folder: Path, resumed: bool = False, name: str = "first") -> RunInfo:
    return RunInfo(name, folder, SETTINGS, plan=[(4, 3, 6), (2, 1, 2)], resumed=resumed)


def read_run(client: MlflowClient, folder: Path) -> Run:
    return client.get_run(json.loads((folder / "mlflow.json").read_text())["run_id"])


def curve(client: MlflowClient, run: Run, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def picture(value: int) -> torch.Tensor:
    image = torch.full((6, 8, 3), value, dtype=torch.uint8)
    image[0, 0] = torch.tensor([255, 0, 7], dtype=torch.uint8)
    return image


def test_a_run_is_recorded_whole(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    tracker = MlflowTracker(MlflowTracker.Options(uri=uri))
    tracker.start(info(tmp_path))
    for update in range(1, 5):
        tracker.log_metrics({"loss": 1 / update, "learning_rate": 1e-5}, update)
    tracker.log_image("samples/steps-004", picture(9), 2)
    tracker.log_image("samples/steps-004", picture(200), 4)
    tracker.log_scores(SCORES)
    (tmp_path / "notes.txt").write_text("hello")
    tracker.log_file(tmp_path / "notes.txt")
    while not (tmp_path / "mlflow.json").is_file():
        time.sleep(0.05)
    assert read_run(client, tmp_path).info.status == "RUNNING"
    tracker.finish("finished")
    # On a slow machine its process may need longer; this waits for it.
    assert tracker.replay(tmp_path) == f"{tmp_path} -> {uri}: nothing was missing"

    run = read_run(client, tmp_path)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert client.get_experiment(run.info.experiment_id).name == "distillkit"
    assert run.data.tags["method"] == "dsdi"
    assert json.loads(run.data.tags["plan"]) == [
        {"steps": 4, "updates": 3, "evaluations": 6},
        {"steps": 2, "updates": 1, "evaluations": 2},
    ]
    assert run.data.params["run.updates"] == "4"
    assert run.data.params["loss.1.type"] == "v-mse"
    assert run.data.params["optimizer.betas"] == "[0.9, 0.98]"
    assert run.data.params["notes.long"] == "x" * 5999 + "…"
    assert curve(client, run, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert run.data.metrics["student/fd-fashion/steps-4"] == 15.25
    assert run.data.metrics["teacher/fd-fashion/steps-4"] == 58.5

    store = sqlite_file(uri)
    assert store is not None
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert artifacts.is_relative_to(store.parent / "mlartifacts")
    assert (artifacts / "notes.txt").read_text() == "hello"
    assert json.loads((artifacts / "scores.json").read_text()) == SCORES
    names = sorted(file.path for file in client.list_artifacts(run.info.run_id, "images") if file.path.endswith(".png"))
    assert [name.partition("+timestamp")[0] for name in names] == [
        "images/samples~steps-004+step+2",
        "images/samples~steps-004+step+4",
    ]
    np.testing.assert_array_equal(np.asarray(Image.open(artifacts / names[1])), picture(200).numpy())


def test_a_resumed_run_goes_on_in_the_same_one(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    tracker = make(uri)
    tracker.start(info(tmp_path))
    for update in (1, 2, 3):
        tracker.log_metrics({"loss": float(update)}, update)
    tracker.log_image("samples", picture(1), 2)
    tracker.finish("killed")
    assert tracker.replay(tmp_path) == f"{tmp_path} -> {uri}: sent 1 runs, 3 points, 1 pictures"
    before = read_run(client, tmp_path)
    assert before.info.status == "KILLED"

    # The checkpoint was at update 1, so that 2 and 3 come a second time.
    tracker = make(uri)
    tracker.start(info(tmp_path, resumed=True))
    for update in (2, 3, 4):
        tracker.log_metrics({"loss": float(update)}, update)
    tracker.log_image("samples", picture(1), 2)
    tracker.log_image("samples", picture(1), 4)
    tracker.finish("failed")
    assert tracker.replay(tmp_path) == f"{tmp_path} -> {uri}: sent 1 points, 1 pictures"

    after = read_run(client, tmp_path)
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FAILED"
    assert after.data.params == before.data.params
    assert curve(client, after, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    images = [file.path for file in client.list_artifacts(after.info.run_id, "images") if file.path.endswith(".png")]
    assert len(images) == 2


def test_scores_of_a_run_resumed_after_its_last_update(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    tracker = make(uri)
    tracker.start(info(tmp_path))
    tracker.log_metrics({"loss": 0.5}, 4)
    tracker.finish("killed")
    tracker = make(uri)
    tracker.start(info(tmp_path, resumed=True))
    for _ in range(2):
        tracker.log_scores(SCORES)
    tracker.finish("finished")
    tracker.replay(tmp_path)
    assert curve(client, read_run(client, tmp_path), "student/fd-fashion/steps-4") == [(4, 15.25)]


def test_a_resumed_run_that_the_store_has_not_is_a_new_one(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    content = {"run_id": "0123456789abcdef0123456789abcdef", "uri": uri, "sent": 7}
    (tmp_path / "mlflow.json").write_text(json.dumps(content))
    tracker = make(uri)
    tracker.start(info(tmp_path, resumed=True))
    tracker.finish("finished")
    tracker.replay(tmp_path)
    run = read_run(client, tmp_path)
    assert run.info.run_id != "0123456789abcdef0123456789abcdef"
    assert run.data.params["run.method"] == "dsdi"


def test_two_runs_at_once_do_not_mix(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    trackers = [make(uri), make(uri, experiment="another")]
    for folder, tracker in zip(folders, trackers, strict=True):
        folder.mkdir()
        tracker.start(info(folder, name=folder.name))
    for value, tracker in enumerate(trackers):
        tracker.log_metrics({"loss": float(value)}, 1)
    for folder, tracker in zip(folders, trackers, strict=True):
        tracker.finish("finished")
        tracker.replay(folder)
    runs = [read_run(client, folder) for folder in folders]
    assert [run.data.metrics["loss"] for run in runs] == [0.0, 1.0]
    assert [client.get_experiment(run.info.experiment_id).name for run in runs] == ["distillkit", "another"]


def test_a_phase_is_nested_in_its_chain(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    above, below = tmp_path / "chain", tmp_path / "chain/phases/1"
    below.mkdir(parents=True)
    chain, phase = make(uri), make(uri)
    chain.start(info(above))
    phase.start(replace(info(below), parent=above))
    phase.log_metrics({"loss": 1.0}, 1)
    phase.finish("finished")
    chain.finish("failed")
    said = f"{below}: is a phase of a chain, which is sent as a whole: distillkit track {above}"
    with pytest.raises(DistillkitError, match=f"^{re.escape(said)}$"):
        phase.replay(below)
    assert chain.replay(above) == f"{above} -> {uri}: sent 2 runs, 1 points"
    assert [read_run(client, folder).info.status for folder in (above, below)] == ["FAILED", "FINISHED"]
    assert read_run(client, below).data.tags["mlflow.parentRunId"] == read_run(client, above).info.run_id


def test_credentials_go_nowhere(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    tracker = make(uri)
    tracker.start(info(tmp_path))
    config = tmp_path / "config.toml"
    config.write_text(f'[tracker]\nuri = "postgresql://me:{SECRET}@db.example/runs?sslpassword=hush&x=1"\n')
    tracker.log_file(config)
    tracker.finish("finished")
    tracker.replay(tmp_path)
    run = read_run(client, tmp_path)
    assert run.data.params["model.path"] == "https://***@models.example/teacher"
    artifact = Path(run.info.artifact_uri.removeprefix("file://")) / "config.toml"
    assert artifact.read_text() == '[tracker]\nuri = "postgresql://***@db.example/runs?sslpassword=***&x=1"\n'
    assert SECRET in config.read_text()


def test_flatten_keeps_every_leaf() -> None:
    tables = {"a": {"b": {"c": 1}}, "metric": [], "loss": [{"type": "x"}], "on": True}
    assert flatten(tables) == {"a.b.c": "1", "metric": "[]", "loss.0.type": "x", "on": "True"}


def test_a_start_that_fails_names_the_key_and_hides_the_password(tmp_path: Path) -> None:
    # No such dialect is installed, so that SQLAlchemy fails at once, without a network.
    tracker = make(f"mssql+pyodbc://me:{SECRET}@db.example/runs")
    with pytest.raises(DistillkitError) as caught:
        tracker.start(info(tmp_path))
    message = str(caught.value)
    assert message.startswith("tracker.uri: MLflow cannot record the run in mssql+pyodbc://***@db.example/runs: ")
    assert message.endswith('; correct it, or set tracker.type = "none"')
    assert SECRET not in message
    assert not (tmp_path / "mlflow.json").exists()


def test_what_the_store_refuses_goes_missing_alone(
    uri: str, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make(uri)
    tracker.start(RunInfo("odd", tmp_path, {"a parameter's %": 1, "seed": 2}, plan=[]))
    tracker.log_metrics({"loss": 1.0, "a metric's %": 2.0}, 1)
    tracker.finish("finished")
    with caplog.at_level(logging.WARNING, logger="distillkit_mlflow"):
        tracker.replay(tmp_path)
    run = read_run(client, tmp_path)
    assert (run.data.params, run.data.metrics, run.info.status) == ({"seed": "2"}, {"loss": 1.0}, "FINISHED")
    refused = [record.getMessage().partition(": ")[0] for record in caplog.records]
    assert refused == ["MLflow refuses a parameter's %", "MLflow refuses a metric's %"]


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
            "the folder /no/such/folder is not there; make it, or name another file",
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
            "was written without its credentials (http://***@host): set MLFLOW_TRACKING_URI to the whole of it, or "
            "leave them out for MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
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
    tracker.start(info(tmp_path))
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.finish("finished")
    tracker.replay(tmp_path)
    first = read_run(client, tmp_path)
    client.delete_run(first.info.run_id)
    assert tracker.replay(tmp_path) == f"{tmp_path} -> {uri}: sent 1 runs, 1 points"
    second = read_run(client, tmp_path)
    assert (second.data.params, second.data.metrics) == (first.data.params, first.data.metrics)
    client.restore_run(first.info.run_id)
    client.delete_run(first.info.run_id)


def test_pictures_have_the_names_that_mlflow_gives_them(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    tracker = make(uri)
    tracker.start(info(tmp_path))
    tracker.log_image("during/steps-4", picture(3), 20)
    tracker.finish("finished")
    tracker.replay(tmp_path)
    ours = read_run(client, tmp_path)
    theirs = client.create_run(ours.info.experiment_id)
    client.log_image(theirs.info.run_id, picture(3).numpy(), key="during/steps-4", step=20, synchronous=True)
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
    tracker.start(info(tmp_path))
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.log_image("samples", picture(1), 1)
    tracker.log_scores(SCORES)
    tracker.finish("finished")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DistillkitError, match=r"^the tracker 'none' has no UI$"):
        tracker.open_ui(5000)
    with pytest.raises(DistillkitError, match=r"^the tracker 'none' keeps nothing that could be sent$"):
        tracker.replay(tmp_path)


def test_ui_wants_a_store(tmp_path: Path) -> None:
    with pytest.raises(DistillkitError, match=r"no run was recorded in sqlite:///.*/none.db yet"):
        make(f"sqlite:///{tmp_path}/none.db").open_ui(5000)
    with pytest.raises(DistillkitError, match=r"http://\*\*\*@host:1 is a server with a UI of its own"):
        make("http://me:pw@host:1").open_ui(5000)


@pytest.fixture
def ui(uri: str, client: MlflowClient, tmp_path: Path) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """`open_ui` in a process group of its own, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code = "import sys; from distillkit_mlflow.ui import open_ui; open_ui(sys.argv[1], int(sys.argv[2]))"
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
    tracker.start(info(tmp_path))
    tracker.log_image("samples", picture(77), 1)
    tracker.finish("finished")
    tracker.replay(tmp_path)
    run_id = read_run(client, tmp_path).info.run_id
    image = next(file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png"))

    assert b"MLflow" in answer(port, server, "/")
    query = urllib.parse.urlencode({"path": image, "run_uuid": run_id})
    assert answer(port, server, f"/get-artifact?{query}").startswith(b"\x89PNG")
    os.killpg(server.pid, signal.SIGINT)
    assert server.wait(timeout=30) == 0
