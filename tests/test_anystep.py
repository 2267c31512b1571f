"""The semigroup target, and sources whose batches have jumps of all sizes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from distillkit_anystep.semigroup import Semigroup
from distillkit_dsd.dsd import MergedSteps
from distillkit_losses.losses import XL1, XMse
from helpers.digits import settings, started
from helpers.targets import ALPHA, PATH, SIGMA, UPDATE, frozen, told
from torch import Tensor

from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import JumpBatch, Loss, Stage
from distillkit.noise import Condition, Predictor
from distillkit.training.assemble import Parts
from distillkit.training.journal import DivergenceGuard, Journal
from distillkit.training.loop import Position, updates

STAGE = Stage(8, 1, 2)
GRID = PATH.grid(8)
# A jump of each level, and both halves of the last one's.
LEVELS, BEGIN = (1, 2, 4, 4, 2), (0, 4, 2, 6, 0)
SHORTCUT = (
    "schedule.steps=16",
    "target.stride=4",
    "source.levels=[1, 2, 4]",
    "source.level_weights=[1, 1, 2]",
    "source.batch=64",
    "grid.spacing=trailing",
)


def batch() -> JumpBatch:
    torch.manual_seed(1)
    span = 8 // torch.tensor(LEVELS)
    times = GRID[torch.tensor(BEGIN) + torch.arange(3).unsqueeze(1) * (span // 2)]
    z = torch.randn(len(LEVELS), 1, 5, 5)
    return JumpBatch(z, times, Condition(), step_size=1 / torch.tensor(LEVELS), levels=LEVELS, seed=(0, 0, 0))


def made(student: Predictor, **options: object) -> Semigroup:
    target = Semigroup(Semigroup.Options.model_validate(options))
    target.setup(student)
    target.start_stage(STAGE, PATH)
    return target


def rotated(network: Predictor, z: Tensor, times: list[int], size: float) -> Tensor:
    """DDIM as rotations by Δ = φ_t − φ_s with φ = atan2(σ, α), in float64: z_s = cosΔ·z_t − sinΔ·v̂."""
    for t, s in pairwise(times):
        turn = angle(t) - angle(s)
        v = network.network.double()(z, torch.tensor([float(t)]), torch.tensor([size], dtype=torch.float64))
        z = torch.cos(turn) * z - torch.sin(turn) * v
    return z


def angle(t: int) -> Tensor:
    return torch.atan2(torch.tensor(SIGMA[t]), torch.tensor(ALPHA[t]))


@pytest.mark.parametrize(("walk", "share"), [("target", 0), ("student", 0), ("target", 1)])
@torch.no_grad()
def test_halves_by_the_average_and_smallest_jumps_by_the_teacher(walk: str, share: float) -> None:
    """Against the rotations in float64, and the v = (cosΔ·z_t − z_s)/sinΔ with which one of them gets there."""
    student, average, teacher = told(0), told(1), frozen(told(2))
    target, jumps = made(average, walk=walk, teacher_share=share), batch()
    prediction = student(jumps.z, jumps.times[0], jumps.condition, jumps.step_size)
    found = target.compute(jumps, prediction, teacher, PATH)
    for row, level in enumerate(LEVELS):
        times = jumps.times[:, row].tolist()
        z, turn = jumps.z[row : row + 1].double(), angle(times[0]) - angle(times[-1])
        first, second = (told(2) if level == 4 or taught else told(1) for taught in (share, 0))
        landing = rotated(second, rotated(first, z, times[:2], 1 / level / 2), times[1:], 1 / level / 2)
        v = (torch.cos(turn) * z - landing) / torch.sin(turn)
        x0 = ALPHA[times[0]] * z - SIGMA[times[0]] * v
        torch.testing.assert_close(found.x0[row : row + 1].double(), x0, rtol=0, atol=2e-5)
        ahead = landing if walk == "target" else rotated(told(0), z, [times[0], times[-1]], 1 / level)
        torch.testing.assert_close(found.z_next[row : row + 1].double(), ahead, rtol=0, atol=2e-6)


@torch.no_grad()
def test_smallest_jumps_are_the_teachers_to_the_bit() -> None:
    """As `merged-steps` has them. Where all samples or none are the teacher's, it costs as much."""
    student, teacher = told(0), frozen(told(2))
    jumps = batch()
    merged = MergedSteps(MergedSteps.Options(stride=2))
    for rows in ([2, 3], [0, 1, 2], [0, 4]):
        smallest = [row for row in rows if LEVELS[row] == 4]
        target, before = made(student), student.evaluations.count
        part = jumps.take(rows)
        found = target.compute(part, student(part.z, part.times[0], part.condition, part.step_size), teacher, PATH)
        assert student.evaluations.count - before + 2 == 1 + target.teacher_evaluations(STAGE, teacher)
        if not smallest:
            continue
        alone = jumps.take(smallest)
        seen = student(alone.z, alone.times[0], alone.condition, alone.step_size)
        expected = merged.compute(alone, seen, teacher, PATH)
        mine = [rows.index(row) for row in smallest]
        assert torch.equal(found.x0[mine], expected.x0)
        assert torch.equal(found.z_next[mine], expected.z_next)


@torch.no_grad()
def test_a_share_of_first_halves_is_the_teachers() -> None:
    """Each larger jump is one or the other, drawn anew in each update."""
    student, teacher, jumps = told(0), frozen(told(2)), batch()
    prediction = student(jumps.z, jumps.times[0], jumps.condition, jumps.step_size)

    def landings(share: float, update: int) -> Tensor:
        target, before = made(student, teacher_share=share), student.evaluations.count
        found = target.compute(replace(jumps, seed=(0, update, 0)), prediction, teacher, PATH).z_next
        own, taught = student.evaluations.count - before, 3 if share else 2
        assert own + taught == target.teacher_evaluations(STAGE, teacher)
        return found[[0, 1, 4]]

    drawn = torch.stack([landings(0.25, update) for update in range(100)])
    # [2, updates, samples]: how far they are from where the average lands, and where the teacher and the average do.
    away = torch.stack([(drawn - landings(share, 0)).abs().amax((2, 3, 4)) for share in (0, 1)])
    assert (away.amin(0) < 1e-5).all()
    assert (away.amax(0) > 1e-3).all()
    assert (away[1] < away[0]).float().mean().item() == pytest.approx(0.25, abs=0.07)


def test_the_average_follows() -> None:
    student, other = told(0), told(1)
    target = made(student, decay=0.75)
    target.after_update(other, UPDATE)
    for name, weight in target.state_dict().items():
        expected = 0.75 * student.state_dict()[name] + 0.25 * other.state_dict()[name]
        torch.testing.assert_close(weight, expected)


def test_walks_of_all_levels(tmp_path: Path) -> None:
    """Samples walk the grid of their walk's level, from noise, and go on where the target landed."""
    parts = started(tmp_path, "shortcut", 16, *SHORTCUT, stride=4)
    source, path = parts.components.source, parts.student.path
    counts, ends = {1: 0, 2: 0, 4: 0}, [0] * 64
    previous = torch.zeros(64, 1, 8, 8)
    for update in range(40):
        jumps = source.draw(torch.Generator().manual_seed(update))
        assert jumps.step_size is not None
        assert jumps.step_size.tolist() == [1 / level for level in jumps.levels]
        for row, level in enumerate(jumps.levels):
            times, own = jumps.times[:, row], path.grid(level).tolist()
            begin = own.index(times[0])
            assert times[-1] == own[begin + 1]
            assert torch.equal(times, path.grid(4 * level)[4 * begin : 4 * begin + 5])
            if begin:
                assert times[0] == ends[row]
                assert torch.equal(jumps.z[row], previous[row])
            ends[row] = int(times[-1])
            counts[level] += 1
        previous = jumps.z + 1
        source.advance(previous)
    # Samples, and not walks, have the weights; they stand at all positions from the first walk's end on.
    for level, share in ((1, 0.25), (2, 0.25), (4, 0.5)):
        assert counts[level] / (40 * 64) == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("times", ["grid", "uniform"])
def test_noised_data_of_all_levels(tmp_path: Path, times: str) -> None:
    words = (*SHORTCUT, "source.type=noised-data", f"source.times={times}")
    parts = started(tmp_path, "shortcut", 16, *words, stride=4)
    drawn = [parts.components.source.draw(torch.Generator().manual_seed(seed)) for seed in range(20)]
    levels = [level for jumps in drawn for level in jumps.levels]
    for level, share in ((1, 0.25), (2, 0.25), (4, 0.5)):
        assert levels.count(level) / len(levels) == pytest.approx(share, abs=0.05)
    jumps, path = drawn[0], parts.student.path
    assert jumps.data is not None
    assert jumps.noise is not None
    assert torch.equal(jumps.z, path.noised(jumps.data, jumps.noise, jumps.times[0]))
    for row, level in enumerate(jumps.levels):
        mine = jumps.times[:, row].tolist()
        if times == "grid":
            grid = path.grid(4 * level).tolist()
            begin = grid.index(mine[0])
            assert begin % 4 == 0
            assert mine == grid[begin : begin + 5]
        else:
            assert mine[0] - mine[-1] == pytest.approx(min(1000 / level, mine[0] + 1), abs=1)


def test_an_update_on_data(tmp_path: Path) -> None:
    """Shortcut distillation on data: the same target, walks replaced by noised images."""
    words = (*SHORTCUT, "source.type=noised-data", "source.batch=4", "run.updates=4")
    parts: Parts = started(tmp_path, "shortcut", 16, *words, stride=4)
    lines = list(updates(parts, Position(), print))
    assert [line.values["evaluations"] for line in lines] == [7] * 4


def test_the_journal_has_the_loss_of_each_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over the samples of all batches of the update; without a sample there is none."""
    terms: list[tuple[tuple[int, ...], list[float]]] = []
    for kind in (XMse, XL1):

        def recorded(loss: Loss, jumps: JumpBatch, *given: Any, original: Any = kind.per_sample) -> Tensor:
            values: Tensor = original(loss, jumps, *given)
            terms.append((jumps.levels, values.tolist()))
            return values

        monkeypatch.setattr(kind, "per_sample", recorded)
    words = ("source.type=noised-data", "source.batch=2", "optimizer.accumulate=2", "run.updates=6")
    two = "loss=[{type='x-mse', weight=2.0}, {type='x-l1', weight={from=1.0, to=0.0}}]"
    parts = started(tmp_path, "shortcut", 16, *SHORTCUT, *words, two, stride=4)
    journal = Journal(tmp_path / "journal.jsonl", DivergenceGuard(parts.components.run))
    rows = journal.write(list(updates(parts, Position(), print)))
    for update, row in enumerate(rows):
        own: dict[int, list[float]] = {}
        for (levels, first), (_, second) in (terms[4 * update :][:2], terms[4 * update :][2:4]):
            for level, x, y in zip(levels, first, second, strict=True):
                own.setdefault(level, []).append(2 * x + (1 - update / 5) * y)
        found = {key: value for key, value in row.items() if key.startswith("loss/")}
        assert found == pytest.approx({f"loss/{level}": fmean(losses) for level, losses in own.items()}, rel=1e-5)
        whole = sum(len(losses) * row[f"loss/{level}"] for level, losses in own.items()) / 4
        assert whole == pytest.approx(row["loss"], rel=1e-5)
    assert {"loss/1" in row for row in rows} == {True, False}


MISTAKES = {
    ("source.levels=[1, 4]", "source.level_weights=[1, 1]"): (
        "source.levels: 'semigroup' cannot teach 1, 4 at N = 16: 1 learns from 2, and 4 from the teacher; expected "
        "1, 2, 4, … to there"
    ),
    ("source.levels=[1, 2]", "source.level_weights=[1, 1]"): (
        "source.levels: 'semigroup' cannot teach 1, 2 at N = 16: 2 learns from 4, and 4 from the teacher; expected "
        "1, 2, 4, … to there"
    ),
    ("source.levels=[3]", "source.level_weights=[1]"): (
        "source.levels: 3 does not divide the jumps of a stage, of which there are 4 at N = 16; leave it out, or "
        "change schedule or target.stride"
    ),
    ("source.levels=[3, 5, 2, 7, 16]", "source.level_weights=[1, 1, 1, 1, 1]"): (
        "source.levels: 5, 7 and 16 are more than and 3 does not divide the jumps of a stage, of which there are 4 at "
        "N = 16; leave them out, or change schedule or target.stride"
    ),
    ("source.level_weights=[1, 2]",): ("source.level_weights: has 2 weights for the 3 of source.levels; give one each"),
    ("source={type='cached-trajectories', levels=[1, 2, 4], level_weights=[1, 1, 1]}",): (
        "source.type: 'cached-trajectories' does not give 'levels', which 'semigroup' needs; use 'noised-data' or "
        "'trajectory'"
    ),
    ("grid.spacing=angle + karras-8",): (
        'schedule: a grid of 16 steps with the spacing "angle + karras-8" has 8 times; take fewer steps'
    ),
    ("target.stride=3",): "target.stride: must be a multiple of 2 (got 3)",
}


@pytest.mark.parametrize(("words", "expected"), MISTAKES.items(), ids=str)
def test_mistakes(tmp_path: Path, words: tuple[str, ...], expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings(tmp_path, "shortcut", "run.updates=4", *SHORTCUT, *words)
    assert [str(mistake) for mistake in raised.value.mistakes] == [expected]


def test_without_levels(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        settings(tmp_path, "shortcut", "run.updates=4", "source={type='trajectory'}")
    assert [str(mistake) for mistake in raised.value.mistakes] == [
        "source.levels: 'semigroup' cannot teach none at N = 32: give the numbers of steps that the student shall "
        "take, as in [1, 2, 4]"
    ]


def test_grids_that_do_not_nest(tmp_path: Path) -> None:
    with pytest.raises(DistillkitError) as raised:
        started(tmp_path, "shortcut", 16, *SHORTCUT, "grid.spacing=leading", stride=4)
    assert str(raised.value) == (
        'grid.spacing: with "leading", the grid of 16 steps has not all times of the one of 1, which source.levels '
        'needs; use "trailing", "angle" or "karras"'
    )
