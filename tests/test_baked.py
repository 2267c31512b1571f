"""`student.guidance = "baked"`: only the teacher is guided; and jumps of several sizes in one batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.digits import MODEL, PLAIN, SCORED, distil, settings
from safetensors.torch import load_file
from torch import Tensor

from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import JumpBatch, Stage
from distillkit.noise import Condition, Prediction
from distillkit.sampling import walk
from distillkit.training.assemble import Parts, load, prepare
from distillkit.training.loop import Position, updates

BAKED = ('student={guidance="baked"}', "source.guidance=2.0")
CACHED = ("schedule.steps=8", "target.stride=1", "source.trajectories=6", "source.shard=4", "source.batch=64")
LEVELS = (*CACHED, "source.levels=[1, 2, 4, 8]")


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trajectories are kept in the working directory."""
    monkeypatch.chdir(tmp_path)


def begun(preset: str, *words: str) -> Parts:
    """Parts that are about to make their updates."""
    parts = load(settings(Path(), preset, "run.updates=4", *words).components())
    for work in prepare(parts):
        work()
    return parts


def calls(parts: Parts, stage: int = 0) -> list[tuple[str, int]]:
    """Who evaluates a network in the first update of a stage, and with how many samples: 8, or 16 where guided."""
    seen: list[tuple[str, int]] = []
    student = parts.student.network

    def listen(module: torch.nn.Module, given: tuple[Tensor, ...], _: object) -> None:
        seen.append(("student" if module is student else "copy", len(given[0])))

    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, output: listen(module, given, output) if isinstance(module, type(student)) else None
    )
    try:
        position = Position()
        for _ in updates(parts, position, lambda _: None):
            if position.stage < stage:
                seen.clear()
                continue
            break
    finally:
        handle.remove()
    return seen


def test_only_the_teacher_is_guided() -> None:
    words = ("schedule.start=8", "source.batch=8", "teacher.renew=never")
    guided = calls(begun("pd", *words, "source.guidance=2.0"))
    assert guided == [("student", 16), ("copy", 16), ("copy", 16)]
    assert calls(begun("pd", *words, *BAKED)) == [("student", 8), ("copy", 16), ("copy", 16)]


def test_a_renewed_teacher_has_it_inside() -> None:
    """PD: from the second stage on, the teacher is a student."""
    words = ("schedule.start=4", "source.batch=8", *BAKED)
    assert calls(begun("pd", *words)) == [("student", 8), ("copy", 16), ("copy", 16)]
    assert calls(begun("pd", *words), stage=1) == [("student", 8), ("copy", 8), ("copy", 8)]


def test_an_average_of_the_student_has_it_inside() -> None:
    """Consistency: the teacher's step is guided, and the average's prediction after it is not."""
    words = ("schedule.steps=8", "source.batch=8", "evaluation.steps=[1]", *BAKED)
    assert calls(begun("consistency", *words)) == [("student", 8), ("copy", 16), ("copy", 8)]


def test_scores_of_both(tmp_path: Path) -> None:
    """The teacher's samples are guided, the student's are not, and the rows say so."""
    words = ("schedule.start=4", "run.updates=2", "source.batch=4", *BAKED, "evaluation.teacher_guidance=2.0")
    few = ("evaluation.samples=8", "evaluation.batch=8")
    found = distil(tmp_path, "pd", *words, *few, tables=MODEL + PLAIN + SCORED)
    rows = json.loads((found.folder / "scores.json").read_text(encoding="utf-8"))
    assert {(row["model"], "guidance 2;" in row["protocol"], "guidance 1;" in row["protocol"]) for row in rows} == {
        ("teacher", True, False),
        ("student", False, True),
    }
    plain = distil(tmp_path / "plain", "pd", "schedule.start=4", "run.updates=2", *few, tables=MODEL + PLAIN + SCORED)
    assert plain.score("teacher", 2) != found.score("teacher", 2)
    index = json.loads((found.folder / "pipeline/model_index.json").read_text(encoding="utf-8"))
    assert index["guidance_scale"] == 1


MISTAKES = {
    ("dsdi", *BAKED): (
        "student.guidance: needs a guided teacher beside the student, and 'self' follows the student; use the teacher "
        "'frozen'"
    ),
    ("tsd", *BAKED): (
        "student.guidance: needs a guided teacher, and 'frozen' takes the student's prediction as its own at each "
        "jump's start; let it make its own"
    ),
    ("pd", BAKED[0]): (
        "source.guidance: is 1, which is no guidance that could be baked into the student; give a scale, or [low, high]"
    ),
    ("pd", BAKED[0], "source.guidance=[1.5, 3]"): (
        "evaluation.guidance: must be from 1.5 to 3, the scales that the student is taught (source.guidance; got 1)"
    ),
    ("pd", *BAKED, "evaluation.guidance=2"): (
        "evaluation.guidance: must be 1 (got 2): the student has its guidance inside; that of the teacher's samples is "
        "evaluation.teacher_guidance"
    ),
    ("luhman-cached", *CACHED, "source.levels=[1, 9]"): (
        "source.levels: 9 is more than the jumps of a stage, of which there are 8 at N = 8; leave it out, or change "
        "schedule or target.stride"
    ),
    ("luhman-cached", *LEVELS, "source.level_weights=[1, 2]"): (
        "source.level_weights: has 2 weights for the 4 of source.levels; give one each"
    ),
    ("luhman-cached", *CACHED, "grid.start=late"): (
        'grid.start: is "late", which is for a source whose teacher has a grid of its own (source.spacing): set it to '
        '"auto"'
    ),
    ("luhman-cached", *CACHED, "source.spacing=karras"): (
        "source.spacing: is for jumps of several sizes: give source.levels, or leave it out"
    ),
}


@pytest.mark.parametrize(("words", "expected"), MISTAKES.items(), ids=str)
def test_mistakes(words: tuple[str, ...], expected: str) -> None:
    preset, *assignments = words
    extra = () if preset == "luhman-cached" else ("schedule.start=8",)
    first = () if preset != "tsd" else ("teacher.first_step=student",)
    with pytest.raises(ConfigError) as raised:
        settings(Path(), preset, "run.updates=4", *extra, *first, *assignments)
    assert [str(mistake) for mistake in raised.value.mistakes] == [expected]


def draw(parts: Parts, seed: int = 0) -> JumpBatch:
    source = parts.components.source
    source.start_stage(Stage(8, 4, 1), parts.student.path)
    return source.draw(torch.Generator().manual_seed(seed))


def test_levels_are_jumps_of_the_same_trajectories() -> None:
    """Each begins at a multiple of its size, and lands where the teacher is after so many of its own steps."""
    parts = begun("luhman-cached", *LEVELS)
    teacher, path = parts.components.teacher, parts.student.path
    assert teacher is not None
    jumps = draw(parts)
    assert jumps.step_size is not None
    assert jumps.landing is not None
    assert jumps.step_size.tolist() == [1 / level for level in jumps.levels]
    grid = path.grid(8).tolist()
    seen = set()
    for i, (size, start, end) in enumerate(zip(jumps.step_size.tolist(), *jumps.times.tolist(), strict=True)):
        begin, landing = grid.index(start), grid.index(end)
        assert landing - begin == size * 8
        assert begin % (landing - begin) == 0
        seen.add((begin, landing))
        # From its state there, the teacher's own steps lead to the landing.
        z, one = jumps.z[i : i + 1], jumps.condition.map(lambda tensor, i=i: tensor[i : i + 1])
        for t, s in zip(grid[begin:landing], grid[begin + 1 : landing + 1], strict=True):
            times = torch.tensor([t]), torch.tensor([s])
            with torch.no_grad():
                z = path.ddim(z, teacher.predict(z, times[0], one, None).x0, *times)
        torch.testing.assert_close(z, jumps.landing[i : i + 1], rtol=0, atol=1e-4)
    # 1 + 2 + 4 + 8 jumps, of which 64 draws miss few.
    assert len(seen) >= 12


@pytest.mark.parametrize(("spacing", "start"), [("karras-8", 999), ("angle", 999), ("karras-8", 703)])
def test_levels_that_do_not_divide_the_trajectory(spacing: str, start: int) -> None:
    """A state between two stored ones is where a shorter step of the teacher's solver lands.

    The student may begin later than the teacher, with the same noise.
    """
    words = ("source.levels=[3, 8]", "source.order=2", f"source.spacing={spacing}", f"grid.start={start}")
    parts = begun("luhman-cached", *CACHED, *words)
    path, [folder] = parts.student.path, Path("trajectories").iterdir()
    stored = path.with_grid(spacing).grid(8)
    shards = [load_file(file)["states"] for file in sorted(folder.glob("*.safetensors"))]
    alpha, sigma = (value.flatten().double() for value in path.alpha_sigma(torch.arange(-1, 1000)))
    states, times = torch.cat(shards).double(), stored.tolist()

    def state(noise: Tensor, time: int) -> Tensor:
        """By the rotation from the stored state before to the one after, in float64: z = cos(φ)x + sin(φ)ε."""
        [row] = (states[:, 0] == noise).flatten(1).all(1).nonzero()[0].tolist()
        i = max(k for k in range(8) if times[k] >= time)
        angle = torch.atan2(sigma, alpha)
        start, end, wanted = (angle[t + 1] for t in (times[i], times[i + 1], time))
        part, whole = start - wanted, start - end
        first, last = states[row, i], states[row, i + 1]
        return (first * torch.sin(whole - part) + last * torch.sin(part)) / torch.sin(whole)

    jumps = draw(parts)
    assert jumps.step_size is not None
    assert jumps.landing is not None
    whole = jumps.times[0] == start
    thirds = (jumps.step_size * 3 == 1) & whole
    assert thirds.any()
    assert set(jumps.times[:, thirds].T.flatten().tolist()) == set(path.grid(3)[:2].tolist())
    for noise, landing, (_, end) in zip(
        jumps.z[whole], jumps.landing[whole], jumps.times.T[whole].tolist(), strict=True
    ):
        torch.testing.assert_close(landing.double(), state(noise.double(), end), rtol=0, atol=2e-6)


def test_every_state_is_stored_for_levels() -> None:
    """Whatever the stride: the states between are those of one step of the solver."""
    strided = [word.replace("stride=1", "stride=2") for word in CACHED]
    begun("luhman-cached", *strided, "source.levels=[1, 3]")
    [shard, _] = sorted(Path("trajectories").glob("*/*.safetensors"))
    assert load_file(shard)["states"].shape[1] == 9


def test_a_teachers_grid_that_begins_too_late() -> None:
    parts = begun("luhman-cached", *LEVELS, "source.spacing=leading", "grid.spacing=karras-8")
    with pytest.raises(DistillkitError, match=r"^source\.spacing: the teacher's grid begins at 876, and the student's"):
        draw(parts)


def test_runs_with_other_seeds_share_trajectories() -> None:
    """The embedding of the step size, which is part of the network, begins the same in all."""
    begun("luhman-cached", *LEVELS, "model.step_input=true", "run.seed=1")
    parts = load(settings(Path(), "luhman-cached", "run.updates=4", *LEVELS, "model.step_input=true").components())
    assert not prepare(parts)


@pytest.mark.parametrize("weights", [None, [1, 2, 3, 4]])
def test_how_often_levels_are_drawn(weights: list[int] | None) -> None:
    given = () if weights is None else (f"source.level_weights={weights}",)
    parts = begun("luhman-cached", *LEVELS, *given)
    sizes = torch.cat([draw(parts, seed).step_size for seed in range(40)])  # type: ignore[arg-type]
    for size, weight in zip((1.0, 0.5, 0.25, 0.125), weights or [2.5] * 4, strict=True):
        assert (sizes == size).float().mean().item() == pytest.approx(weight / 10, abs=0.03)


def test_the_student_is_told_the_level() -> None:
    """Of each sample; and the pipeline is made for the smallest number that is scored."""
    parts = begun("luhman-cached", *LEVELS, "model.step_input=true", "source.batch=8")
    told: list[Tensor] = []
    forward = parts.student.forward_network

    def listen(network: torch.nn.Module, z: Tensor, t: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        told.append(inputs["step_size"])
        return forward(network, z, t, inputs)

    parts.student.forward_network = listen  # type: ignore[assignment]
    next(updates(parts, Position(), lambda _: None))
    [sizes] = told
    assert {1.0, 0.5, 0.25, 0.125} >= {*sizes.tolist()}
    assert len({*sizes.tolist()}) > 1


def test_trajectories_are_guided_and_the_student_is_not() -> None:
    parts = begun("luhman-cached", *LEVELS, *BAKED, "source.batch=8")
    jumps = draw(parts)
    assert jumps.condition.guidance is not None
    model, path, first = parts.components.model, parts.student.path, int((jumps.step_size == 1).nonzero()[0])  # type: ignore[union-attr]
    label = jumps.condition.inputs["class_labels"][first : first + 1]
    condition: Condition = model.condition(label, 1, torch.tensor([2.0]))
    noise = jumps.z[first : first + 1] / path.initial_scale

    def predict(z: Tensor, t: Tensor, given: Condition, step_size: Tensor) -> Prediction:
        prediction: Prediction = parts.student(z, t, given)
        return prediction

    *_, end = walk(predict, path, noise, condition, 8)
    assert jumps.landing is not None
    torch.testing.assert_close(jumps.landing[first : first + 1], end, rtol=0, atol=1e-4)
    assert calls(parts) == [("student", 8)]
