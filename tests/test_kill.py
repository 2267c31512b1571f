"""SIGKILL at any moment: the run that goes on from what is left is the run that was never killed, bit for bit."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.faults import KILL, Fault, one_of_each
from helpers.forked_runs import ForkedRun, content, forked_critic, forked_phases, forked_run


def kill_and_go_on(whole: ForkedRun, top: Path, number: int) -> None:
    killed = forked_run(top)
    assert killed.go(Fault(number, signals=KILL)) == -9
    event = killed.events[-1]
    assert killed.go() == 0, f"{event}: {killed.errors}"
    assert content(killed.run) == content(whole.run), event


def test_killed_at_a_few_writes(whole: ForkedRun, tmp_path: Path) -> None:
    """At the most delicate ones: the first, a checkpoint's, its renaming, the removal of an old one, and the last."""
    events = whole.events
    delicate = [
        0,
        next(i for i, event in enumerate(events) if event.startswith("rename checkpoints/.update-000002.partial")),
        next(i for i, event in enumerate(events) if event.startswith("fsync") and "update-000004/mani" in event),
        next(i for i, event in enumerate(events) if event.startswith("rmdir checkpoints/update-000002")),
        next(i for i, event in enumerate(events) if event.startswith("rename .best.safetensors.partial/")),
        next(i for i, event in enumerate(events) if event.startswith("rename .pipeline.partial/pipeline pipeline")),
    ]
    for i in delicate:
        kill_and_go_on(whole, tmp_path / str(i), i + 1)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(4))
def test_killed_at_every_write(whole: ForkedRun, tmp_path: Path, share: int) -> None:
    """Each file that is opened, written, flushed, renamed or removed, of config, journal, curves, checkpoints, best
    weights, scores, samples and pipeline; of a file that is written several times, one of them."""
    numbers = one_of_each(whole.events, seed=0)
    assert len(numbers) >= 60
    for number in numbers[share::4]:
        kill_and_go_on(whole, tmp_path / str(number), number)


@pytest.mark.parametrize("number", [3, 5])
def test_half_a_line(whole: ForkedRun, tmp_path: Path, number: int) -> None:
    """Killed while the journal and the curves were being written: what is behind the last whole line is cut off."""
    killed = forked_run(tmp_path)
    assert killed.go(Fault(number, "open journal.jsonl", signals=KILL)) == -9
    for name in ("journal.jsonl", "curves.jsonl"):
        with (killed.run / name).open("a", encoding="utf-8") as file:
            file.write('{"update": 1, "sco')
    assert killed.go() == 0, killed.errors
    assert content(killed.run) == content(whole.run)


def test_all_is_flushed_before_it_is_in_its_place(whole: ForkedRun) -> None:
    """Each file of a checkpoint and its folder; behind the renaming the folder above; then old ones are removed."""
    events = whole.events
    aside, final = "checkpoints/.update-000006.partial/update-000006", "checkpoints/update-000006"
    renamed = events.index(f"rename {aside} {final}")
    names = ("rank-00000.safetensors", "state.safetensors", "position.json", "manifest.json")
    for path in (aside, *(f"{aside}/{name}" for name in names)):
        last = max(i for i, event in enumerate(events[:renamed]) if event.split()[1] == path)
        assert events[last] == f"fsync {path}"
    assert events[renamed + 1] == "fsync checkpoints"
    assert events.index("rmtree checkpoints/update-000002") > renamed
    # What the checkpoint is behind of is on the disk before it.
    [saved] = [i for i, event in enumerate(events) if event.startswith(f"save {aside}/rank")]
    written = max(i for i, event in enumerate(events[:saved]) if event == "open journal.jsonl")
    assert "fsync journal.jsonl" in events[written:saved]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "updates", "longest"), [(forked_run, 240, 1.5), (forked_critic, 48, 4.0)])
def test_killed_at_random_moments_again_and_again(
    tmp_path: Path, make: Callable[..., ForkedRun], updates: int, longest: float
) -> None:
    long = (f"run.updates={updates}", f"run.checkpoint_every={updates // 12}", "run.log_every=3")
    undisturbed, killed = make(tmp_path / "whole", *long), make(tmp_path / "killed", *long)
    assert undisturbed.go() == 0, undisturbed.errors
    draw, kills = random.Random(0), 0
    while kills < 12 and not (killed.run / "pipeline").exists():
        [process] = killed.start()
        process.join(draw.uniform(0.3, longest))
        kills += process.exitcode is None
        process.kill()
        process.join()
    assert kills >= 3
    assert killed.go() == 0, killed.errors
    assert content(killed.run) == content(undisturbed.run)


# It diverges, and goes back: see test_divergence.py.
WILD = (
    *("run.updates=60", "run.log_every=1", "schedule.start=4", "source.batch=4"),
    *("teacher.type=self", "optimizer.learning_rate=3e-3", "optimizer.final_learning_rate=3e-3", "optimizer.clip=0"),
    *("run.x0_limit=2", "run.loss_limit=1e9", "run.on_divergence=rollback", "run.checkpoint_every=8"),
    *("evaluation.every=0", "evaluation.teacher=false"),
)


@pytest.fixture(scope="module")
def back(tmp_path_factory: pytest.TempPathFactory) -> ForkedRun:
    """A run that went back."""
    made = ForkedRun(forked_run(tmp_path_factory.mktemp("back")).top, WILD)
    assert made.go() == 0, made.errors
    assert "rollback 1 of 5" in made.output
    return made


@pytest.mark.parametrize("behind", [1, *(pytest.param(i, marks=pytest.mark.slow) for i in (0, 2, 3))])
def test_killed_where_a_run_goes_back(back: ForkedRun, tmp_path: Path, behind: int) -> None:
    """The checkpoint that it goes back to is replaced by one that counts how often: either is there at any time."""
    number = next(i for i, event in enumerate(back.events, 1) if re.fullmatch(r"rename (\S+) \S+\.old", event))
    killed = ForkedRun(forked_run(tmp_path).top, WILD)
    assert killed.go(Fault(number + behind, signals=KILL)) == -9
    assert killed.go() == 0, killed.errors
    assert content(killed.run) == content(back.run)


# --- several phases -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_phases(tmp_path_factory: pytest.TempPathFactory) -> ForkedRun:
    """A run of two phases without a fault."""
    made = forked_phases(tmp_path_factory.mktemp("phases"))
    assert made.go() == 0, made.errors
    return made


def kill_phases(whole_phases: ForkedRun, top: Path, number: int) -> None:
    killed = forked_phases(top)
    assert killed.go(Fault(number, signals=KILL)) == -9
    event = killed.events[-1]
    assert killed.go() == 0, f"{event}: {killed.errors}"
    assert content(killed.run) == content(whole_phases.run), event


def test_phases_killed_at_a_few_writes(whole_phases: ForkedRun, tmp_path: Path) -> None:
    """In the second phase's training, with a critic, and while the run's own files are made."""
    for part in (
        "rename phases/2/checkpoints/.update-000002.partial",
        "rename .journal.jsonl.partial",
        "rename .pipeline.partial",
    ):
        number = next(i for i, event in enumerate(whole_phases.events, 1) if event.startswith(part))
        kill_phases(whole_phases, tmp_path / str(number), number)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(2))
def test_phases_killed_at_every_third_write(whole_phases: ForkedRun, tmp_path: Path, share: int) -> None:
    for number in one_of_each(whole_phases.events, seed=0)[3 * share :: 6]:
        kill_phases(whole_phases, tmp_path / str(number), number)
