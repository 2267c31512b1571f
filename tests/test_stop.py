"""SIGTERM and Ctrl-C in every phase of a run: what is left, the exit code, and going on from there."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.faults import Fault
from helpers.forked_runs import ForkedRun, content, forked_run

from distillkit.errors import SIGNALS, TIMERS, Terminated
from distillkit.terminal import deferred

TERM, INT = signal.SIGTERM, signal.SIGINT
HUP, USR1, USR2 = signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
XCPU, ALRM = signal.SIGXCPU, signal.SIGALRM
CODES = {TERM: 143, INT: 130, HUP: 129, USR1: 138, USR2: 140, XCPU: 152}

# Phase -> the event at which the signal comes, which of them, and the updates after which the run stops (None: it
# stops at once, in a part of the run that is made again).
PHASES: dict[str, tuple[str, int, int | None]] = {
    "start-up": ("rename .config.toml.partial/", 1, None),
    "the teacher's scores": ("open .scores.json.partial/scores.json", 1, None),
    "an update": ("open journal.jsonl", 3, 1),
    "an evaluation": ("open curves.jsonl", 1, 2),
    "a checkpoint": ("save checkpoints/.update-000002.partial", 1, 2),
    "the last checkpoint": ("fsync checkpoints/.update-000006.partial/update-000006/state", 1, 6),
    "the student's scores": ("open .scores.json.partial/scores.json", 2, None),
    "the export": ("save .pipeline.partial/pipeline/", 1, None),
}


def stopped_in(phase: str, number: int, folder: Path) -> ForkedRun:
    """A run that a signal has stopped in a phase; after its first update, with a checkpoint."""
    at, which, updates = PHASES[phase]
    stopped = forked_run(folder)
    assert stopped.go(Fault(which, at, signals=(number,))) == CODES[number], stopped.errors
    if updates is None:
        assert stopped.errors == "stopped\n"
    else:
        assert stopped.errors == f"stopped: after update {updates} of 6; go on with --resume\n"
        assert (stopped.run / f"checkpoints/update-{updates:06d}/manifest.json").is_file()
    return stopped


@pytest.mark.parametrize("number", [TERM, pytest.param(INT, marks=pytest.mark.slow)], ids=["SIGTERM", "Ctrl-C"])
@pytest.mark.parametrize("phase", PHASES)
def test_stopped_in_a_phase(whole: ForkedRun, tmp_path: Path, phase: str, number: int) -> None:
    stopped = stopped_in(phase, number, tmp_path)
    if PHASES[phase][2] is not None:
        assert "stopping after this update; Ctrl-C once more stops at once\n" in stopped.output
    assert stopped.go() == 0, stopped.errors
    assert content(stopped.run) == content(whole.run)


@pytest.mark.parametrize("number", [HUP, USR1, USR2, XCPU], ids=str)
@pytest.mark.parametrize("phase", ["start-up", "an update"])
def test_other_signals_stop_it_too(tmp_path: Path, phase: str, number: int) -> None:
    """SIGUSR1, SIGUSR2 and SIGXCPU announce a cluster's preemption, SIGHUP a terminal that is closed."""
    stopped_in(phase, number, tmp_path)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Gives this process its own handlers of signals back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_is_ignored_stays_so() -> None:
    """As nohup has SIGHUP ignored."""
    signal.signal(HUP, signal.SIG_IGN)
    with deferred() as stop:
        signal.raise_signal(HUP)
        assert not stop.asked
        signal.raise_signal(USR1)
        assert (stop.asked, stop.number) == (True, USR1)


@pytest.mark.usefixtures("handlers")
def test_each_signal_that_would_kill_the_run_stops_it() -> None:
    for number in SIGNALS:
        if number in TIMERS:
            signal.signal(number, signal.SIG_DFL)
        with deferred() as stop:
            signal.raise_signal(number)
        assert (stop.asked, stop.number) == (True, number)
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.usefixtures("handlers")
def test_a_timer_of_somebody_elses_stays_so() -> None:
    """As in a metric with a timeout."""
    rung: list[int] = []
    signal.signal(ALRM, lambda number, _: rung.append(number))
    with deferred() as stop:
        signal.raise_signal(ALRM)
    assert (rung, stop.asked) == ([ALRM], False)


@pytest.mark.usefixtures("handlers")
def test_a_limit_of_cpu_time_says_it_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillkit.terminal.ECHO", 0.0)
    with deferred() as stop:
        signal.raise_signal(XCPU)
        signal.raise_signal(XCPU)
    assert stop.asked


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_comes_again_while_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts once there too; later it stops what is left."""
    with deferred():
        signal.raise_signal(HUP)
    signal.raise_signal(TERM)
    monkeypatch.setattr("distillkit.terminal.ECHO", 0.0)
    with pytest.raises(Terminated):
        signal.raise_signal(TERM)


@pytest.mark.parametrize("pair", [(TERM, TERM), (USR1, TERM)], ids=str)
def test_signals_that_come_at_once_are_one(tmp_path: Path, pair: tuple[int, int]) -> None:
    """As when a cluster tells all processes of a job, and a launcher passes on what it was told."""
    at, which, updates = PHASES["an update"]
    stopped = forked_run(tmp_path)
    assert stopped.go(Fault(which, at, signals=pair)) == CODES[pair[0]], stopped.errors
    assert stopped.errors == f"stopped: after update {updates} of 6; go on with --resume\n"
    assert (stopped.run / f"checkpoints/update-{updates:06d}/manifest.json").is_file()


@pytest.mark.parametrize("pair", [(TERM, INT), pytest.param((INT, INT), marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("phase", ["an update", "a checkpoint"])
def test_a_second_signal_stops_at_once(whole: ForkedRun, tmp_path: Path, phase: str, pair: tuple[int, int]) -> None:
    at, which, _ = PHASES[phase]
    stopped = forked_run(tmp_path)
    assert stopped.go(Fault(which, at, signals=pair)) == CODES[pair[1]], stopped.errors
    assert stopped.errors == "stopped\n"
    assert not [*stopped.run.glob("checkpoints/update-*")]
    assert stopped.go() == 0, stopped.errors
    assert content(stopped.run) == content(whole.run)


def test_a_pipe_whose_reader_has_ended(tmp_path: Path) -> None:
    """As in `distillkit run … | head`: the run goes on."""
    made = forked_run(tmp_path)
    options = [part for option in made.options for part in ("--set", option)]
    command = [sys.executable, "-m", "distillkit", "run", "mine.toml", "--output", "run", *options]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, b"")
    assert (made.run / "pipeline").is_dir()
