"""MLflow as its users set it up: its environment variables, shared SQLite stores, artifact stores of their own."""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from distillkit_mlflow import sqlite, store
from distillkit_mlflow import tracker as tracking
from distillkit_mlflow.folder import PictureReader
from distillkit_mlflow.process import NOTE, Process
from distillkit_mlflow.record import Record, choose_place, choose_store
from distillkit_mlflow.store import experiment_id, open_store
from distillkit_mlflow.sync import Sync
from distillkit_mlflow.tracker import MlflowTracker
from distillkit_mlflow.uri import describe, sqlite_file
from helpers.digits import MODEL, PLAIN, settings
from helpers.run_folders import RunFolder

from distillkit.errors import DistillkitError
from distillkit.interfaces.tracker import Status
from distillkit.locks import file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EVERY = {"run": {"name": "first", "method": "dsdi", "log_every": 1}}


class Sender(MlflowTracker):
    """Starts no process: the test has the run sent."""

    def _start_process(self) -> None:
        pass


@pytest.fixture(scope="module")
def client(store_uri: str) -> MlflowClient:
    return open_store(store_uri)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRACKING_URI", "EXPERIMENT_NAME", "EXPERIMENT_ID", "RUN_ID", "RUN_CONTEXT"):
        monkeypatch.delenv(f"MLFLOW_{name}", raising=False)


def record_run(folder: Path, status: Status = "killed", resumed: bool = False, **options: Any) -> MlflowTracker:
    """A run of one update that begins and ends under the present environment."""
    run, tracker = RunFolder(folder, EVERY), Sender(MlflowTracker.Options(**options))
    tracker.start(run.info(resumed=resumed))
    run.update(1)
    tracker.finish(status)
    return tracker


def find(client: MlflowClient, uri: str, folder: Path) -> Run:
    return client.get_run(json.loads((folder / "mlflow.json").read_text())[uri])


@pytest.mark.parametrize(
    ("written", "environment", "record", "chosen"),
    [
        ("http://a", "http://b", None, "http://a"),
        (None, "http://b", None, "http://b"),
        (None, None, None, "sqlite:///{}/mlflow.db"),
        (None, "", None, "sqlite:///{}/mlflow.db"),
        # A run that has begun stays where it is, from whatever folder and shell.
        (None, "http://b", (None, "http://a"), "http://a"),
        (None, None, (None, "sqlite:////elsewhere/mlflow.db"), "sqlite:////elsewhere/mlflow.db"),
        ("sqlite:///x.db", None, ("sqlite:///x.db", "sqlite:////elsewhere/x.db"), "sqlite:////elsewhere/x.db"),
        ("http://c", "http://b", (None, "http://a"), "http://c"),
        # The credentials come from where they are.
        (None, "http://u:p@a", (None, "http://***@a"), "http://u:p@a"),
        ("http://u:p@a", None, ("http://***@a", "http://***@a"), "http://u:p@a"),
        (None, None, (None, "http://***@a"), "http://***@a"),
    ],
)
def test_config_then_environment_then_sqlite(
    written: str | None,
    environment: str | None,
    record: tuple[str | None, str] | None,
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if environment is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    made = None if record is None else Record("id", 0, *record)
    assert choose_store(written, made) == chosen.format(Path.cwd())


def test_the_environment_at_the_start_counts(
    store_uri: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of the environment")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    monkeypatch.setenv("MLFLOW_RUN_CONTEXT", '{"team": "blue"}')
    record_run(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "of another shell")
    tracker = record_run(tmp_path, resumed=True)
    tracker.send(tmp_path)
    found = find(client, store_uri, tmp_path)
    assert client.get_experiment(found.info.experiment_id).name == "of the environment"
    assert found.data.tags["team"] == "blue"
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} <= found.data.tags.keys()

    config = record_run(tmp_path / "config", uri=store_uri, experiment="of the config")
    config.send(tmp_path / "config")
    experiment = find(client, store_uri, tmp_path / "config").info.experiment_id
    assert client.get_experiment(experiment).name == "of the config"


def test_the_resolved_config_leaves_it_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    tables = (MODEL + PLAIN).replace('type = "none"', 'type = "mlflow"')
    assert settings(tmp_path, "dsdi", "run.updates=1", tables=tables).tables["tracker"] == {"type": "mlflow"}


def test_the_ui_of_a_run_is_that_of_its_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none.db")
    tracker = record_run(tmp_path / "run")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    with pytest.raises(DistillkitError, match=r"no run was recorded in sqlite:///.*/none.db yet"):
        tracker.open_ui(5000, tmp_path / "run")
    with pytest.raises(DistillkitError, match="http://host is a server with its own UI"):
        tracker.open_ui(5000)


def test_an_experiment_by_its_id(
    store_uri: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = experiment_id(client, "numbered", store_uri)
    for name, value in {"here": number, "nowhere": "987654", "name": "abc"}.items():
        monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", value)
        tracker = record_run(tmp_path / name, uri=store_uri)
        if name == "here":
            tracker.send(tmp_path / name)
            assert find(client, store_uri, tmp_path / name).info.experiment_id == number
        else:
            with pytest.raises(DistillkitError, match=f"no experiment with the id {value}, which MLFLOW_EXPE"):
                tracker.send(tmp_path / name)


def test_the_name_of_an_experiment_counts_before_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    with caplog.at_level(logging.WARNING, logger="distillkit_mlflow"):
        place = choose_place(None, None, None)
        choose_place(None, "of the config", None)
    assert (place.experiment, place.experiment_id) == ("mine", None)
    assert [record.getMessage() for record in caplog.records] == [
        "MLFLOW_EXPERIMENT_NAME (mine) counts, and MLFLOW_EXPERIMENT_ID (7) does not"
    ]


def test_tags_of_the_environment(
    store_uri: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps them. One that the store refuses goes missing alone."""
    monkeypatch.setenv("MLFLOW_RUN_TAGS", '{"team": "blue", "ticket": 7, "no%tag": "x", "distillkit.record": "y"}')
    tracker = record_run(tmp_path, uri=store_uri)
    monkeypatch.delenv("MLFLOW_RUN_TAGS")
    tracker.send(tmp_path)
    tags = find(client, store_uri, tmp_path).data.tags
    assert (tags["team"], tags["ticket"], tags["method"], "no%tag" in tags) == ("blue", "7", "dsdi", False)


@pytest.mark.parametrize("text", ["team=blue", "[1]", '{"team": ["blue"]}'])
def test_tags_that_are_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MLFLOW_RUN_TAGS", text)
    [mistake] = MlflowTracker(MlflowTracker.Options()).check()
    assert mistake.message == f"""MLFLOW_RUN_TAGS: must be a JSON object, as in {{"team": "blue"}} (got '{text}')"""


def test_what_the_process_notes_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missing where MLFLOW_RUN_ID names no run."""
    process = Process.__new__(Process)
    process._heard, process._noted = f"\n{NOTE}a new one is created\nlost\n".encode(), 0
    assert process.notes() == ["a new one is created"]
    assert process.notes() == []


def test_a_server_that_cannot_be_reached_says_why(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    with pytest.raises(DistillkitError) as caught:
        record_run(tmp_path, uri=uri).send(tmp_path)
    assert f"({uri} does not answer: Connection refused)" in str(caught.value)
    assert describe("sqlite:///a.db", ValueError("word " * 100)) == ("ValueError: " + ("word " * 59).strip() + " …")


def test_a_run_that_the_environment_names_goes_on(
    store_uri: str,
    client: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = client.create_run(experiment_id(client, "theirs", store_uri), run_name="theirs").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs)
    record_run(tmp_path / "one", uri=store_uri).send(tmp_path / "one")
    found = find(client, store_uri, tmp_path / "one")
    assert (found.info.run_id, found.info.run_name, found.info.status) == (theirs, "theirs", "KILLED")
    assert (found.data.tags["method"], found.data.metrics["loss"]) == ("dsdi", 1.0)
    with caplog.at_level(logging.WARNING, logger="distillkit_mlflow"):
        record_run(tmp_path / "two", uri=store_uri).send(tmp_path / "two")
        monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
        record_run(tmp_path / "three", uri=store_uri).send(tmp_path / "three")
    assert [record.getMessage() for record in caplog.records] == [
        f"MLFLOW_RUN_ID: {theirs} belongs to another run folder, so a new one is created",
        f"MLFLOW_RUN_ID: the store has no run {'0' * 32}, so a new one is created",
    ]
    ids = [find(client, store_uri, tmp_path / name).info.run_id for name in ("one", "two", "three")]
    assert len(set(ids)) == 3


def test_wrong_settings_name_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    [mistake] = MlflowTracker(MlflowTracker.Options()).check()
    assert str(mistake).startswith("uri: MLFLOW_TRACKING_URI: MLflow has no file stores any more")
    assert list(MlflowTracker(MlflowTracker.Options(uri="http://host")).check()) == []
    [mistake] = MlflowTracker(MlflowTracker.Options(uri="http://host", experiment=" ")).check()
    assert str(mistake) == "experiment: must be a name (got ' ')"


def begin_in(uri: str) -> None:
    client = open_store(uri)
    client.create_run(experiment_id(client, "distillkit", uri))


def test_several_processes_make_one_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    # Where a process that was killed had begun.
    (tmp_path / "mlflow.db").touch()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=begin_in, args=(uri,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    client = open_store(uri)
    assert len(client.search_runs([experiment_id(client, "distillkit", uri)])) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def test_a_store_that_is_never_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for a run that is still going on, which has a lock, too."""
    monkeypatch.setattr(sqlite, "MAKING", 0.1)
    tracker = record_run(tmp_path / "run", uri=f"sqlite:///{tmp_path}/mlflow.db")
    with (
        file_lock(tmp_path / ".mlflow.db.lock"),
        pytest.raises(DistillkitError, match=r"mlflow.db: another process has been making this store for 0 s: wait"),
    ):
        tracker.send(tmp_path / "run")


WRONG = {
    "CREATE TABLE _alembic_tmp_latest_metrics (x)": "was left half made by an MLflow that was stopped",
    "DELETE FROM alembic_version": "was left half made by an MLflow that was stopped",
    "UPDATE alembic_version SET version_num = '451aebb31d03'": "was made by an older MLflow: make a copy of the file",
    "UPDATE alembic_version SET version_num = 'ffffffffffff'": "was made by a newer MLflow: install that one",
}


def changed_store(store_uri: str, folder: Path, change: str) -> Path:
    """A copy of a good store, with a change by SQL."""
    good, file = sqlite_file(store_uri), folder / "mlflow.db"
    assert good is not None
    sqlite.check(good)
    shutil.copy(good, file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(change)
        connection.commit()
    return file


@pytest.mark.parametrize("change", WRONG)
def test_a_store_that_mlflow_cannot_use_is_told_from_a_good_one(store_uri: str, tmp_path: Path, change: str) -> None:
    file = changed_store(store_uri, tmp_path, change)
    with pytest.raises(DistillkitError) as caught:
        open_store(f"sqlite:///{file}")
    assert str(caught.value).startswith(f"{file} {WRONG[change]}")
    with pytest.raises(DistillkitError, match=WRONG[change]):
        MlflowTracker(MlflowTracker.Options(uri=f"sqlite:///{file}")).open_ui(5000)


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 100)
    with closing(sqlite3.connect(tmp_path / "other")) as connection:
        connection.execute("CREATE TABLE cats (name)")
    for name, said in {"text": "is not a SQLite database", "other": "is a database, but not one of MLflow's"}.items():
        with pytest.raises(DistillkitError, match=f"{name} {said}: name another file"):
            sqlite.check(tmp_path / name)


def test_the_warning_of_a_short_run_says_why(
    store_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    file = changed_store(store_uri, tmp_path, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    run = RunFolder(tmp_path / "run", EVERY)
    tracker = MlflowTracker(MlflowTracker.Options(uri=f"sqlite:///{file}"))
    with caplog.at_level(logging.WARNING, logger="distillkit_mlflow"):
        tracker.start(run.info())
        tracker.finish("finished")
    [warning] = [record.getMessage() for record in caplog.records]
    assert f"({file} was made by an older MLflow: make a copy of the file, then run: mlflow db upgrade" in warning


def test_the_warning_of_a_run_says_why_and_all_else_arrives(
    store_uri: str,
    client: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two runs with their own processes: one in a deleted experiment, one whose artifact store is down."""
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    client.delete_experiment(experiment_id(client, "gone", store_uri))
    (tmp_path / "artifacts").touch()
    client.create_experiment("no artifacts", artifact_location=(tmp_path / "artifacts").as_uri())
    runs = {name: RunFolder(tmp_path / name, EVERY) for name in ("gone", "no artifacts")}
    trackers = {name: MlflowTracker(MlflowTracker.Options(uri=store_uri, experiment=name)) for name in runs}
    with caplog.at_level(logging.WARNING, logger="distillkit_mlflow"):
        for name, run in runs.items():
            run.update(1)
            run.evaluation(1, 3.0)
            trackers[name].start(run.info())
        while len(caplog.records) < 2:
            for tracker in trackers.values():
                tracker.sync()
            time.sleep(0.05)
        runs["no artifacts"].update(2)
        trackers["no artifacts"].sync()
        while find(client, store_uri, runs["no artifacts"].path).data.metrics.get("loss") != 2.0:
            time.sleep(0.05)
        for tracker in trackers.values():
            tracker.finish("killed")
    warnings = sorted(record.getMessage().partition("continues (")[2] for record in caplog.records)
    assert warnings[0].startswith("pictures and files: NotADirectoryError: ")
    assert warnings[1].startswith("the experiment 'gone' was deleted in the store: restore it with mlflow experiments")


def test_a_deleted_experiment_is_named(store_uri: str, client: MlflowClient, tmp_path: Path) -> None:
    number = experiment_id(client, "deleted", store_uri)
    client.delete_experiment(number)
    tracker = record_run(tmp_path, uri=store_uri, experiment="deleted")
    with pytest.raises(DistillkitError) as caught:
        tracker.send(tmp_path)
    assert (
        "(the experiment 'deleted' was deleted in the store: restore it with mlflow experiments restore "
        f"--experiment-id {number})"
    ) in str(caught.value)
    client.restore_experiment(number)
    assert tracker.send(tmp_path).endswith("sent 1 run, 5 points")


def test_an_artifact_store_that_is_down_holds_back_nothing_else(
    store_uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    blocked = tmp_path / "artifacts"
    blocked.touch()
    client.create_experiment("blocked", artifact_location=blocked.as_uri())
    run = RunFolder(tmp_path / "run", EVERY)
    tracker = Sender(MlflowTracker.Options(uri=store_uri, experiment="blocked"))
    tracker.start(run.info())
    run.update(1)
    run.evaluation(1, 3.0)
    sync = Sync(store_uri, run.path, print, print)
    for update in (2, 3):
        run.update(update)
        with pytest.raises(OSError, match="artifacts"):
            sync.send(over=False)
        found = find(client, store_uri, run.path)
        assert (found.data.metrics["loss"], found.data.params["run.name"]) == (update, "first")
    run.end()
    (run.path / "pipeline").mkdir()
    tracker.finish("finished")
    with pytest.raises(OSError, match="artifacts"):
        sync.send(over=True)
    assert find(client, store_uri, run.path).info.status == "FINISHED"
    blocked.unlink()
    assert tracker.send(run.path) == f"{run.path} -> {store_uri}: sent 2 pictures, 3 files"
    assert tracker.send(run.path) == f"{run.path} -> {store_uri}: nothing was missing"


class Counted:
    """A client whose calls are counted."""

    def __init__(self, client: MlflowClient) -> None:
        self._client = client
        self.calls: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        self.calls[name] = self.calls.get(name, 0) + 1
        return getattr(self._client, name)


def test_long_runs_take_calls_in_proportion(
    store_uri: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sent at once, in two parts, or again: a call for each thousand points, two for each picture, none for others."""
    counted = Counted(client)
    monkeypatch.setattr(store, "open_store", lambda uri: counted)
    run = RunFolder(tmp_path, EVERY)
    Sender(MlflowTracker.Options(uri=store_uri)).start(run.info())
    lines = [
        json.dumps({"update": update, "loss": 1.0, "grad_norm": 1.0, "seconds": 0.1 * update, "learning_rate": 1e-5})
        for update in range(1, 2001)
    ]
    (tmp_path / "journal.jsonl").write_text("\n".join(lines[:1000]) + "\n")
    for update in range(1, 21):
        run.evaluation(update, 1.0)
    sync = Sync(store_uri, tmp_path, print, print)
    sync.send(over=False)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write("\n".join(lines[1000:]) + "\n")
    sync.send(over=False)
    Sync(store_uri, tmp_path, print, print).send(over=True)
    # 4 × 2000 points, 20 of evaluations; the parameters.
    assert counted.calls["log_batch"] == 5 + 4 + 1
    assert counted.calls["log_artifact"] == 2 * 20
    assert "get_metric_history" not in counted.calls
    assert sum(counted.calls.values()) < 65
    assert len((tmp_path / "mlflow.sent.jsonl").read_text().splitlines()) == 20
    found = find(client, store_uri, tmp_path)
    assert len(client.get_metric_history(found.info.run_id, "loss")) == 2000


def test_new_pictures_are_found_without_a_look_at_the_others(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, EVERY)
    reader = PictureReader(tmp_path)
    run.picture("during/update-000001-steps-004.png", 1)
    assert list(reader.new()) == []
    for update in (1, 2):
        run.evaluation(update, 1.0)
        assert [(each.key, each.step) for each in reader.new()] == [("during/steps-4", update)]
    assert list(reader.new()) == []
    run.picture("during/update-000009-steps-004.png", 9)
    assert [each.step for each in reader.all(finished=False)] == [1, 2, 9]
