"""Ctrl-C and SIGTERM to a real process: what it leaves, and going on from there."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from distillkit_mlflow.store import open_store
from helpers.digits import MODEL, PLAIN, SCORED

UPDATES = 150


class Process:
    """`distillkit run` in a process of its own, again and again, in one folder."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.folder = top / "run"
        self.output = ""
        self.errors = ""
        store = f'type = "mlflow"\nuri = "sqlite:///{top}/mlflow.db"\n'
        tables = (MODEL + PLAIN + SCORED).replace('type = "none"\n', store)
        (top / "mine.toml").write_text('preset = "dsdi"\n' + tables, encoding="utf-8")

    def run(self, *options: str, until: Callable[[], bool] | None = None, by: int = signal.SIGINT) -> int:
        """Run; stop it with a signal as soon as `until` holds. The exit code."""
        command = [sys.executable, "-m", "distillkit", "run", "mine.toml", "--output", "run"]
        assignments = [f"run.updates={UPDATES}", "run.log_every=1", "source.batch=2", "schedule.start=4"]
        assignments += ["evaluation.samples=1500"]
        command += [part for assignment in assignments for part in ("--set", assignment)]
        command += options
        with subprocess.Popen(
            command, cwd=self.top, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                while until is not None and not until():
                    assert process.poll() is None
                    time.sleep(0.01)
                if until is not None:
                    process.send_signal(by)
                self.output, self.errors = process.communicate(timeout=120)
            finally:
                process.kill()
        return process.returncode

    def journal(self) -> list[int]:
        file = self.folder / "journal.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [json.loads(line)["update"] for line in lines]

    def status(self) -> tuple[str, str]:
        """The MLflow run's identity and status."""
        client = open_store(f"sqlite:///{self.top}/mlflow.db")
        [found] = client.search_runs([client.get_experiment_by_name("distillkit").experiment_id])
        return found.info.run_id, found.info.status


def test_stopped_in_evaluation_then_in_updates_then_finished(tmp_path: Path) -> None:
    process = Process(tmp_path)

    # While the teacher is scored.
    assert process.run(until=(process.folder / "mlflow.json").is_file) == 130
    assert process.errors == "stopped\n"
    first, status = process.status()
    assert status == "KILLED"
    assert tomllib.loads((process.folder / "config.toml").read_text(encoding="utf-8"))["run"]["updates"] == UPDATES
    assert process.journal() == []

    # While it learns.
    learning = process.run("--resume", until=lambda: len(process.journal()) > 2, by=signal.SIGTERM)
    assert learning == 143
    done = process.journal()
    assert process.errors.endswith(f"stopped: after update {len(done)} of {UPDATES}; go on with --resume\n")
    assert done == list(range(1, len(done) + 1))
    assert 2 < len(done) < UPDATES
    assert process.status() == (first, "KILLED")
    teacher = json.loads((process.folder / "scores.json").read_text(encoding="utf-8"))
    assert [row["model"] for row in teacher] == ["teacher"]
    assert not (process.folder / "pipeline").exists()

    # To the end.
    assert process.run("--resume") == 0, process.errors
    assert process.journal() == list(range(1, UPDATES + 1))
    assert process.status() == (first, "FINISHED")
    scores = json.loads((process.folder / "scores.json").read_text(encoding="utf-8"))
    assert [row["model"] for row in scores] == ["teacher", "student"]
    assert scores[0] == teacher[0]
    assert (process.folder / "pipeline/model_index.json").is_file()
    assert process.output.splitlines()[-1].endswith("   record: distillkit ui run")
    assert not re.search("warning|error", process.errors, re.IGNORECASE)


def test_stopped_in_an_evaluation_between_updates(tmp_path: Path) -> None:
    """The journal is written before it begins, and its pictures would take hours."""
    process = Process(tmp_path)
    options = ["tracker.type=none", "evaluation.samples=5", "evaluation.every=3", "evaluation.every_samples=100000000"]
    given = [part for option in options for part in ("--set", option)]
    assert process.run(*given, until=lambda: len(process.journal()) == 3) == 130
    assert process.output.splitlines()[-1] == "stopping after this update; Ctrl-C once more stops at once"
    assert process.errors.endswith(f"stopped: after update 3 of {UPDATES}; go on with --resume\n")
    assert process.journal() == [1, 2, 3]
    assert [file.name for file in (process.folder / "checkpoints").iterdir()] == ["update-000003"]


def test_stopped_before_it_has_begun(tmp_path: Path) -> None:
    """While torch is being imported: nothing is left."""
    command = [sys.executable, "-m", "distillkit", "run", "mine.toml", "--output", "run"]
    (tmp_path / "mine.toml").write_text('preset = "dsdi"\n' + MODEL + PLAIN + "[run]\nupdates = 9\n", encoding="utf-8")
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8"):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "stopped\n")
    assert not (tmp_path / "run").exists()
