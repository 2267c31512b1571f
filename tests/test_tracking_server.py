"""A real tracking server that dies, hangs and loses answers in the middle of runs, which are killed in their turn."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.digits import MODEL, PLAIN, SCORED, Run
from helpers.failing_servers import serve
from mlflow import MlflowClient

from distillkit.cli.group import cli

pytestmark = pytest.mark.slow

UPDATES = 60
SETS = (f"run.updates={UPDATES}", "run.log_every=1", "run.checkpoint_every=10", "source.batch=2", "schedule.start=4")
SETS = (*SETS, "evaluation.samples=20", "evaluation.every=20", "evaluation.every_samples=20")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """An MLflow server's."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", "sqlite:///mlflow.db", "--workers", "1"]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(free)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            for _ in range(600):
                assert server.poll() is None, (folder / "log").read_text()
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{free}/health", timeout=5):
                        break
                except (urllib.error.URLError, ConnectionError, TimeoutError):
                    time.sleep(0.2)
            yield free
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


class Process:
    """`distillkit run` in a process of its own, again and again."""

    def __init__(self, top: Path, uri: str) -> None:
        self.top = top
        self.result = Run(top / "run")
        tables = (MODEL + PLAIN + SCORED).replace('type = "none"\n', f'type = "mlflow"\nuri = "{uri}"\n')
        (top / "mine.toml").write_text(f'preset = "dsdi"\n{tables}', encoding="utf-8")

    def run(
        self, *options: str, until: Callable[[], bool] | None = None, then: Callable[[], None] | None = None
    ) -> str:
        """Run, and do something, or else kill it, as soon as `until` holds. Its standard error."""
        sets = [word for assignment in SETS for word in ("--set", assignment)]
        command = [sys.executable, "-m", "distillkit", "run", "mine.toml", "--output", "run", *sets, *options]
        with subprocess.Popen(
            command, cwd=self.top, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            while until is not None and not until():
                assert process.poll() is None
                time.sleep(0.01)
            if until is not None:
                (then or process.kill)()
            return process.communicate(timeout=200)[1]

    def updates(self) -> int:
        file = self.result.folder / "journal.jsonl"
        return len(file.read_text().splitlines()) if file.is_file() else 0

    def sent(self) -> int:
        """How many pictures MLflow has; −1 before it has the run."""
        if not (self.result.folder / "mlflow.json").is_file():
            return -1
        file = self.result.folder / "mlflow.sent.jsonl"
        return len(file.read_text().splitlines()) if file.is_file() else 0

    def track(self) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["track", str(self.result.folder)])
        return result.exit_code, result.output

    def status(self, client: MlflowClient) -> str:
        [run_id] = json.loads((self.result.folder / "mlflow.json").read_text()).values()
        return str(client.get_run(run_id).info.status)

    def check(self, client: MlflowClient) -> None:
        """Everything is there, and once."""
        record = json.loads((self.result.folder / "tracking.json").read_text())["id"]
        experiment = client.get_experiment_by_name("distillkit").experiment_id
        [run] = client.search_runs([experiment], f"tags.`distillkit.record` = '{record}'")
        assert run.info.status == "FINISHED"
        assert run.data.params["run.updates"] == str(UPDATES)
        # In the order of their times. Those of updates that a killed run made, and the resumed one makes again, may lie
        # after the times of the next ones.
        points = sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, "loss"))
        assert points == [(line["update"], line["loss"]) for line in self.result.journal]
        assert len(points) == UPDATES
        for key in ("seconds", "grad_norm", "learning_rate"):
            steps = sorted(point.step for point in client.get_metric_history(run.info.run_id, key))
            assert steps == [*range(1, UPDATES + 1)]
        images = sorted(file.path.partition("+time")[0] for file in client.list_artifacts(run.info.run_id, "images"))
        expected = ["images/during~steps-2+step+20", "images/during~steps-2+step+40", "images/samples+step+2"]
        assert images == sorted(2 * expected)
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert files == {"images", "config.toml", "scores.json", "journal.jsonl"}
        folder = client.download_artifacts(run.info.run_id, "journal.jsonl", str(self.top))
        assert Path(folder).read_bytes() == (self.result.folder / "journal.jsonl").read_bytes()


@pytest.fixture
def client(port: int, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    return MlflowClient(f"http://127.0.0.1:{port}")


def test_a_server_that_hangs_from_the_middle_on(port: int, client: MlflowClient, tmp_path: Path) -> None:
    with serve("passes on", port) as server:
        process = Process(tmp_path, server.uri)

        def hang() -> None:
            server.mode = "hangs"

        errors = process.run(until=lambda: process.sent() > 0, then=hang)
        assert errors.count("MLflow does not have all of the run") == 1
        assert process.updates() == UPDATES
        assert process.status(client) == "RUNNING"
        server.mode = "passes on"
        server.release.set()
        assert process.track()[0] == 0
        process.check(client)
        assert process.track()[1].endswith("nothing was missing\n")


def test_a_server_that_loses_answers(port: int, client: MlflowClient, tmp_path: Path) -> None:
    """It took what it never confirmed, the making of the run included; that is sent again."""
    with serve("loses answers", port) as server:
        process = Process(tmp_path, server.uri)
        process.run()
        for _ in range(60):
            code, output = process.track()
            if code == 0:
                break
            assert (code, output.count("\n")) == (2, 1)
        assert code == 0
        lost = {"/".join(address.split("/")[-2:]) for address in server.lost}
        assert {"runs/create", "runs/log-batch", "runs/update", "artifacts/journal.jsonl"} <= lost
        process.check(client)


def test_a_run_that_is_killed_and_resumed(port: int, client: MlflowClient, tmp_path: Path) -> None:
    process = Process(tmp_path, f"http://127.0.0.1:{port}")
    process.run(until=lambda: process.updates() > 25 and process.sent() >= 0)
    # The process that sends outlives the run, and says how it ended.
    while process.status(client) == "RUNNING":
        time.sleep(0.1)
    assert process.status(client) == "KILLED"
    assert process.run("--resume") == ""
    assert process.track()[0] == 0
    process.check(client)
