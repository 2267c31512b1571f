"""Stores that are away, hang, answer 500 or are locked: the run goes on; `distillkit track` sends what is missing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import sqlite3
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from distillkit_mlflow import tracker as tracking
from distillkit_mlflow.record import read_record
from distillkit_mlflow.store import open_store
from distillkit_mlflow.sync import lock
from distillkit_mlflow.tracker import MlflowTracker
from distillkit_mlflow.uri import describe, redact_uri, sqlite_file
from helpers.digits import MODEL, PLAIN, SCORED, Run, distil, settings
from helpers.failing_servers import serve
from helpers.run_folders import RunFolder

from distillkit.cli.group import cli
from distillkit.config import read_config
from distillkit.errors import ConfigError, DistillkitError, redact
from distillkit.training.folder import RunFolder as Taken

if TYPE_CHECKING:
    from mlflow.entities import Run as Recorded

OPTIONS = ("run.updates=4", "run.log_every=1", "source.batch=2", "schedule.start=4")
OPTIONS = (*OPTIONS, "evaluation.samples=20", "evaluation.every=2", "evaluation.every_samples=20")
SECRET = "s3cr3t"


def tables(uri: str) -> str:
    return (MODEL + PLAIN + SCORED).replace('type = "none"\n', f'type = "mlflow"\nuri = "{uri}"\n')


def track(*words: str) -> Result:
    return CliRunner().invoke(cli, ["track", *words])


def recorded(uri: str, folder: Path) -> Recorded:
    """The run of a folder, of which the store must have one and no second one."""
    client = open_store(uri)
    record = read_record(folder)
    assert record is not None
    experiment = client.get_experiment_by_name("distillkit").experiment_id
    [run] = client.search_runs([experiment], f"tags.`distillkit.record` = '{record.id}'")
    return run


def check_whole(uri: str, run: Run) -> None:
    """The store has each point of the journal once, each picture once, and the rest."""
    client, found = open_store(uri), recorded(uri, run.folder)
    assert found.info.status == "FINISHED"
    assert found.data.params["run.updates"] == "4"
    for key in ("loss", "grad_norm", "learning_rate"):
        points = [(point.step, point.value) for point in client.get_metric_history(found.info.run_id, key)]
        assert points == [(line["update"], line[key]) for line in run.journal]
    names = [file.path for file in client.list_artifacts(found.info.run_id, "images")]
    pictures = sorted(name.partition("+timestamp")[0] for name in names if name.endswith(".png"))
    assert pictures == ["images/during~steps-2+step+2", "images/samples+step+2"]
    assert len(names) == 2 * len(pictures)
    files = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert files == {"images", "config.toml", "scores.json", "journal.jsonl"}
    scores = json.loads((run.folder / "scores.json").read_text())
    for row in scores:
        [point] = client.get_metric_history(found.info.run_id, f"{row['model']}/{row['metric']}/steps-2")
        assert (point.step, point.value) == (4, row["value"])


@contextmanager
def refusing(folder: Path, store: str) -> Iterator[tuple[str, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{probe.getsockname()[1]}", store


@contextmanager
def hanging(folder: Path, store: str) -> Iterator[tuple[str, str]]:
    with serve("hangs") as server:
        yield server.uri, store


@contextmanager
def failing(folder: Path, store: str) -> Iterator[tuple[str, str]]:
    with serve("answers 500") as server:
        yield server.uri, store


@contextmanager
def locked(folder: Path, store: str) -> Iterator[tuple[str, str]]:
    file = sqlite_file(store)
    assert file is not None
    shutil.copy(file, folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield f"sqlite:///{folder}/mlflow.db", f"sqlite:///{folder}/mlflow.db"


@pytest.mark.parametrize("fault", [refusing, hanging, failing, locked])
def test_the_run_goes_on_and_nothing_is_lost(
    fault: Callable[..., contextmanager[tuple[str, str]]],  # type: ignore[valid-type]
    store_uri: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "PATIENCE", 0.5)
    with fault(tmp_path, store_uri) as (uri, later), caplog.at_level(logging.WARNING, logger="distillkit_mlflow"):
        # The store fails until the run is over: nothing in it waits for an answer.
        run = distil(tmp_path, "dsdi", *OPTIONS, tables=tables(uri))
        [warning] = [record.getMessage() for record in caplog.records]
        assert warning.startswith("MLflow does not have all of the run, which continues (")
        assert warning.endswith(f"or by: distillkit track {run.folder}")
        assert not (run.folder / "mlflow.json").exists()
    words = [str(run.folder), *(["--uri", later] if uri != later else [])]
    said = f"{run.folder} -> {later}: "
    result = track(*words)
    # A file that is no longer locked may have got it all from the run's own process by now.
    expected = ["sent 1 run, 23 points, 2 pictures, 3 files", *(["nothing was missing"] if fault is locked else [])]
    assert result.exit_code == 0
    assert result.output in [f"{said}{what}\n" for what in expected]
    check_whole(later, run)
    assert track(*words).output == f"{said}nothing was missing\n"
    check_whole(later, run)


def test_the_end_is_held_up_for_less_than_five_seconds() -> None:
    assert tracking.PATIENCE < 5


EVERY = {"run": {"name": "first", "log_every": 1}}


def test_one_warning_says_what_is_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(tmp_path, EVERY)
    with serve("answers 500") as server, caplog.at_level(logging.WARNING, logger="distillkit_mlflow"):
        tracker = MlflowTracker(MlflowTracker.Options(uri=server.uri))
        tracker.start(run.info())
        while not caplog.records:
            tracker.sync()
            time.sleep(0.05)
        for _ in range(3):
            tracker.sync()
        tracker.finish("finished")
    [warning] = [record.getMessage() for record in caplog.records]
    assert "(MlflowException: API request to " in warning


def test_a_process_that_hangs_holds_up_nothing(tmp_path: Path) -> None:
    """Nobody reads the pipe, and what it holds is less than this."""
    run = RunFolder(tmp_path, EVERY)
    with serve("hangs") as server:
        tracker = MlflowTracker(MlflowTracker.Options(uri=server.uri))
        tracker.start(run.info())
        assert tracker._process is not None
        os.kill(tracker._process._process.pid, signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(50000):
            tracker.sync()
        assert time.monotonic() - began < 5
        tracker._process._process.kill()
        tracker.finish("killed")


def test_two_phases_show_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, store_uri: str) -> None:
    """Its phases have no process of their own, and are sent with it."""
    above = RunFolder(tmp_path, {"run": {"name": "first"}, "phase": [EVERY]})
    below = RunFolder(tmp_path / "phases/1", EVERY)
    with refusing(tmp_path, store_uri) as (uri, _), caplog.at_level(logging.WARNING, logger="distillkit_mlflow"):
        tracker = MlflowTracker(MlflowTracker.Options(uri=uri))
        tracker.start(above.info())
        tracker.start(below.info(parent=tmp_path))
        below.update(1)
        while not caplog.records:
            tracker.sync()
            time.sleep(0.05)
        tracker.finish("finished")
        tracker.finish("killed")
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.endswith(f"distillkit track {tmp_path}")
    other = MlflowTracker(MlflowTracker.Options(uri=store_uri))
    assert other.send(tmp_path) == f"{tmp_path} -> {store_uri}: sent 2 runs, 5 points, 2 files"
    whole, phase = recorded(store_uri, tmp_path), recorded(store_uri, tmp_path / "phases/1")
    assert phase.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert (whole.info.status, phase.info.status) == ("KILLED", "FINISHED")


def test_a_run_that_died_is_killed_and_its_last_line_may_be_torn(store_uri: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, EVERY)
    run.update(1)
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"update": 2, "lo')
    tracker = MlflowTracker(MlflowTracker.Options(uri=store_uri))
    assert tracker.send(tmp_path).endswith("sent 1 run, 5 points")
    assert recorded(store_uri, tmp_path).info.status == "KILLED"
    run.cut(1)
    run.update(2)
    (tmp_path / "pipeline").mkdir()
    assert tracker.send(tmp_path).endswith("sent 5 points, 2 files")
    found = recorded(store_uri, tmp_path)
    assert (found.info.status, found.data.metrics["loss"]) == ("FINISHED", 2.0)


def test_what_goes_on_is_not_sent_twice_at_once(store_uri: str, tmp_path: Path) -> None:
    RunFolder(tmp_path, EVERY)
    with lock(tmp_path).acquire(), pytest.raises(DistillkitError) as caught:
        MlflowTracker(MlflowTracker.Options(uri=store_uri)).send(tmp_path)
    assert str(caught.value) == f"{tmp_path}: the run is still going on, and is sent while it does"


def test_a_run_that_goes_on_without_a_tracker_is_not_sent(tmp_path: Path) -> None:
    """It would be shown as killed."""
    with Taken(tmp_path) as run:
        run.create({"tracker": {"type": "none"}})
        result = track(str(tmp_path), "--uri", f"sqlite:///{tmp_path}/mlflow.db")
    said = f"{tmp_path}: the run is still going on, and its tracker sends it meanwhile; try again when it is over\n"
    assert (result.exit_code, result.output) == (2, said)
    assert not (tmp_path / "tracking.json").exists()


def test_what_cannot_be_sent(tmp_path: Path) -> None:
    result = track(str(tmp_path))
    assert (result.exit_code, result.output) == (2, f"{tmp_path}: holds no run (no config.toml)\n")
    (tmp_path / "config.toml").write_text('[tracker]\ntype = "none"\n')
    result = track(str(tmp_path))
    assert (result.exit_code, result.output) == (
        2,
        "the tracker 'none' does not send runs anywhere: name a store with --uri\n",
    )
    result = track(str(tmp_path), "--uri", "mlruns")
    assert (result.exit_code, result.output.splitlines()[0]) == (2, "--uri: 1 error")
    with refusing(tmp_path, "") as (uri, _):
        result = track(str(tmp_path), "--uri", uri.replace("//", f"//me:{SECRET}@"))
    assert result.exit_code == 2
    server = uri.replace("//", "//***@")
    assert result.output == (
        f"{server}: MLflow did not accept the run in {tmp_path} ({server} does not answer: Connection refused); "
        "nothing is lost, try again later\n"
    )
    assert len(result.output.splitlines()) == 1
    assert SECRET not in result.output


def test_credentials_are_in_no_file_and_no_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve("answers 500") as server:
        uri = f"{server.uri.replace('//', f'//me:{SECRET}@')}/?token={SECRET}"
        run = distil(tmp_path, "dsdi", *OPTIONS, tables=tables(uri))
    assert len(caplog.records) == 1
    assert SECRET not in caplog.text + "".join(capfd.readouterr())
    texts = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
    assert [file for file, text in texts.items() if SECRET.encode() in text] == []
    hidden = f"{server.uri.replace('//', '//***@')}/?token=***"
    assert tomllib.loads((run.folder / "config.toml").read_text())["tracker"]["uri"] == hidden

    # The config of the run's folder can be run again, by who has the credentials.
    with pytest.raises(ConfigError, match=r"tracker\.uri: has no credentials"):
        read_config(run.folder / "config.toml")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert (
        read_config(run.folder / "config.toml").tables
        == settings(tmp_path, "dsdi", *OPTIONS, tables=tables(uri)).tables
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("http://127.0.0.1:5000/path", "http://127.0.0.1:5000/path"),
        ("cannot reach https://key@host:1/x now", "cannot reach https://***@host:1/x now"),
        ("mysql+pymysql://u:a@b/c@host/db", "mysql+pymysql://***@host/db"),
        ("postgresql:/u:pw@host/db", "postgresql:/***@host/db"),
        ("https://host/?Token=abc", "https://host/?Token=***"),
        ("https://host/?access_token=abc&x=1", "https://host/?access_token=***&x=1"),
        ("https://host/#sslkey=abc", "https://host/#sslkey=***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dabc", "mssql+pyodbc:///?odbc_connect=***"),
    ],
)
def test_redacted_uris(text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact(shown) == shown


@pytest.mark.parametrize(
    ("written", "assignment"),
    [
        (f'["http://me:{SECRET}@host"]', "run.seed=1"),
        (f'"nothing://me:{SECRET}@host"', "run.seed=1"),
        ('"sqlite:///mlflow.db"', f"tracker.uri:http://me:{SECRET}@host"),
        ('"sqlite:///mlflow.db"', f'tracker="http://me:{SECRET}@host"'),
    ],
)
def test_mistakes_quote_no_credentials(tmp_path: Path, written: str, assignment: str) -> None:
    (tmp_path / "mine.toml").write_text(f'preset = "dsdi"\n{tables("x")}'.replace('"x"', written))
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / "mine.toml", ["run.updates=2", assignment])
    assert len(caught.value.mistakes) == 1
    assert SECRET not in str(caught.value)


def test_redacted_messages() -> None:
    assert redact_uri("postgresql://me:pass word@host/db") == "postgresql://***@host/db"
    uri = "postgresql://me:p%40ss@host/db?sslpassword=hush"
    error = ValueError(f"no {uri} as the password p@ss is wrong, as hush is\nmore")
    assert describe(uri, error) == (
        "ValueError: no postgresql://***@host/db?sslpassword=*** as the password *** is wrong, as *** is"
    )
