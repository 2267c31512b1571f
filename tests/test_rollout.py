"""The student's own samples as what a critic teaches from: the source `rollout`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers.digits import settings
from torch import Tensor

from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import JumpBatch, Stage
from distillkit.sampling import walk
from distillkit.training.assemble import Parts, load, prepare
from distillkit.training.loop import Position, updates

ROLLOUT = "type='rollout', levels=[1, 2, 3], level_weights=[1, 2, 1], batch=6"
CASES = {
    "a critic alone": ("target.type=none", "loss=[{type='distribution-matching'}]", f"source={{{ROLLOUT}}}"),
    "a guided student": (
        "target.type=none",
        "loss=[{type='score-identity'}]",
        f"source={{{ROLLOUT}, guidance=[1.0, 3.0]}}",
        "model.step_input=false",
    ),
    "a target beside it, guidance baked": (
        "target={type='merged-steps', stride=2}",
        f"source={{{ROLLOUT}, guidance=1.5}}",
        "student.guidance=baked",
        "grid={spacing='trailing'}",
    ),
}
ALONE = (*CASES["a critic alone"], "critic.updates=1")


def watched(parts: Parts) -> tuple[list[JumpBatch], list[Tensor]]:
    """What the source will draw, and where it will be told to go on."""
    drawn: list[JumpBatch] = []
    landed: list[Tensor] = []
    source = parts.components.source
    draw, advance = source.draw, source.advance

    def drawing(random: torch.Generator) -> JumpBatch:
        drawn.append(draw(random))
        return drawn[-1]

    def advancing(z: Tensor) -> None:
        landed.append(z)
        advance(z)

    source.draw, source.advance = drawing, advancing  # type: ignore[method-assign]
    return drawn, landed


@pytest.mark.parametrize("case", CASES)
def test_walks_are_what_the_student_samples(tmp_path: Path, case: str) -> None:
    """While the critic learns alone, the student stays; so a walk goes where the sampler does from its noise."""
    options = ("critic.updates=1", "critic.warmup=0.95", "run.updates=10")
    parts = load(settings(tmp_path, "dmd", *CASES[case], *options).components())
    prepare(parts)
    student, [stage] = parts.student, parts.plan
    drawn, landed = watched(parts)
    evaluations = {line.values["evaluations"] for line in updates(parts, Position(), print)}
    # The student's own, what a target asks the teacher, the critic's view and the teacher's, and the critic's update.
    assert evaluations == {stage.evaluations} == {1 + 2 * (stage.stride - 1) + 3}
    seen: Counter[int] = Counter()
    for row in range(6):
        begins = [i for i, jumps in enumerate(drawn) if jumps.times[0, row] == student.path.start]
        for begin, after in pairwise([*begins, len(drawn)]):
            first = drawn[begin]
            level = first.levels[row]
            grid = student.path.grid(level * stage.stride)
            condition = first.condition.map(lambda values, row=row: values[row : row + 1])
            if "baked" in case:
                condition = replace(condition, guidance=None)
            states = list(walk(student, student.path, first.z[row : row + 1], condition, level))
            # The first walks of a run are cut short, and its last ones are not over.
            for i, at in enumerate(range(begin, after)):
                jumps = drawn[at]
                assert jumps.step_size is not None
                assert jumps.step_size[row] == pytest.approx(1 / level)
                assert torch.equal(jumps.times[:, row], grid[i * stage.stride : (i + 1) * stage.stride + 1])
                torch.testing.assert_close(landed[at][row : row + 1], states[i + 1], rtol=0, atol=1e-5)
            seen[level] += 1
    assert seen.keys() == {1, 2, 3}


def test_levels_have_samples_as_their_weights_say(tmp_path: Path) -> None:
    """And each jump of a level as many as its others."""
    words = (*ALONE[:2], "source={type='rollout', levels=[1, 2, 3], level_weights=[1, 2, 1], batch=64}")
    parts = load(settings(tmp_path, "dmd", *words, "run.updates=9").components())
    prepare(parts)
    source, path = parts.components.source, parts.student.path
    source.start_stage(Stage(8, 9), path)
    seen: Counter[tuple[int, int]] = Counter()
    for seed in range(120):
        jumps = source.draw(torch.Generator().manual_seed(seed))
        source.advance(jumps.z)
        for level, begin in zip(jumps.levels, jumps.times[0].tolist(), strict=True):
            seen[level, path.grid(level).tolist().index(begin)] += 1
    expected = {
        (level, jump): share / 4 / level for level, share in {1: 1, 2: 2, 3: 1}.items() for jump in range(level)
    }
    assert {key: count / seen.total() for key, count in seen.items()} == pytest.approx(expected, abs=0.03)


LATE = ("grid.start=late", *ALONE)


def test_a_late_student_walks_from_its_own_start(tmp_path: Path) -> None:
    """A critic alone never asks the teacher about the noise there."""
    parts = load(settings(tmp_path, "dmd", *LATE, "run.updates=2").components())
    prepare(parts)
    drawn, _ = watched(parts)
    for _ in updates(parts, Position(), print):
        pass
    start = parts.student.path.start
    assert start < len(parts.student.path.alphas_cumprod) - 1
    assert {int(t) for jumps in drawn for t in jumps.times[0]} >= {start}


REFUSED = {
    "no critic": (
        ("critic={type='none'}", "target={type='merged-steps'}", "loss=[{type='x-mse'}]", "grid={spacing='trailing'}"),
        r"source\.type: 'rollout' goes on where the student's jumps land, .* add a \[critic\], or use another source",
    ),
    "a late start that a teacher is asked about": (
        ("target={type='merged-steps', stride=2}", "loss=[{type='x-mse'}, {type='distribution-matching'}]"),
        r'grid\.start: is "late", which is for a source whose teacher has a grid of its own',
    ),
    "too many": (("schedule.steps=2",), r"source\.levels: 3 is more than the jumps of a stage, of which there are 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes(tmp_path: Path, case: str) -> None:
    words, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        settings(tmp_path, "dmd", *ALONE, "run.updates=4", *words)


def test_jumps_with_parts_want_grids_that_nest(tmp_path: Path) -> None:
    words = (*CASES["a target beside it, guidance baked"][:3], "grid={spacing='leading'}", "run.updates=4")
    parts = load(settings(tmp_path, "dmd", *words).components())
    prepare(parts)
    with pytest.raises(DistillkitError, match=r'grid\.spacing: with "leading", the grid of 2 steps has not all times'):
        next(updates(parts, Position(), print))
