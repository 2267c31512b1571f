"""The same run twice, and the sources that feed it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distillkit_data.noised_data import NoisedData
from distillkit_schedules.schedules import Halving
from helpers.digits import MODEL, PLAIN, SCORED, Run, distil, settings, started
from PIL import Image
from torch import Tensor, nn

from distillkit.config import Choice, Config
from distillkit.interfaces import JumpBatch, Stage
from distillkit.noise import Predictor
from distillkit.sampling import sample
from distillkit.training.assemble import Parts
from distillkit.training.run import run

SHORT = ("run.updates=6", "schedule.start=4", "source.batch=4", "source.staggered=true", "source.guidance=[1.0, 3.0]")


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def test_a_seed_gives_the_same_weights_with_and_without_evaluation(tmp_path: Path) -> None:
    first = distil(tmp_path / "a", "dsdi", *SHORT)
    watched = ["evaluation.every=2", "evaluation.every_samples=5", "evaluation.samples=5"]
    second = distil(tmp_path / "b", "dsdi", *SHORT, *watched, tables=MODEL + PLAIN + SCORED)
    other = distil(tmp_path / "c", "dsdi", *SHORT, "run.seed=1")
    assert equal(first.weights(), second.weights())
    assert timeless(first) == timeless(second)
    assert not equal(first.weights(), other.weights())
    assert first.losses != other.losses


def test_a_new_network_follows_from_the_seed_too(tmp_path: Path) -> None:
    """Its first weights, the data, the dropped labels and the dropout."""
    new = f"""
[model]
type = "diffusers"
null_class = 10
scheduler = {{ prediction_type = "v_prediction" }}
[model.network]
sample_size = 8
in_channels = 1
out_channels = 1
block_out_channels = [8, 8]
layers_per_block = 1
dropout = 0.5
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
norm_num_groups = 4
num_class_embeds = 11
{PLAIN}"""
    options = ["run.updates=3", "source.batch=8", "source.drop_labels=0.5", "optimizer.warmup=1"]
    runs = [distil(tmp_path / f"{i}", "training", *options, f"run.seed={i // 2}", tables=new) for i in range(3)]
    assert equal(runs[0].weights(), runs[1].weights())
    assert not equal(runs[0].weights(), runs[2].weights())


def test_every_update_has_noise_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first ones of two stages, and the two batches that one update accumulates."""
    drawn: list[Tensor] = []

    def remember(self: NoisedData, generator: torch.Generator) -> JumpBatch:
        jumps = draw_step(self, generator)
        assert jumps.noise is not None
        drawn.append(jumps.noise)
        return jumps

    draw_step = NoisedData.draw
    monkeypatch.setattr(NoisedData, "draw", remember)
    distil(tmp_path, "pd", "run.updates=6", "schedule.start=4", "source.batch=2", "optimizer.accumulate=2")
    assert len(drawn) == 12
    assert len({noise.numpy().tobytes() for noise in drawn}) == 12


@pytest.mark.parametrize(("over", "stages"), [(99, [0, 0, 0, 1, 1, 1]), (1, [0, 1])])
def test_a_stage_ends_with_its_updates_or_when_the_schedule_says_so(
    tmp_path: Path, over: int, stages: list[int]
) -> None:
    class Judging(Halving):
        def watches(self, steps: int) -> str:
            return "steps-2"

        def is_over(self, stage: Stage, done: int, scores: Sequence[float]) -> bool:
            assert len(scores) == done
            return done == over

    each = ("evaluation.every=1", "evaluation.every_samples=2", "evaluation.samples=2", "evaluation.teacher=false")
    wanted = settings(tmp_path, "dsdi", *SHORT, *each, tables=MODEL + PLAIN + SCORED)
    schedule = Choice(Judging, Judging.Options(start=4))
    wanted = replace(wanted, choices={**wanted.choices, "schedule": [schedule]})
    run(Config.of(wanted), tmp_path / "run")
    assert [line["stage"] for line in Run(tmp_path / "run").journal] == stages


def timeless(run: Run) -> list[dict[str, object]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in run.journal]


# --- trajectories ----------------------------------------------------------------------------------------------------


def draw(parts: Parts, seed: int) -> JumpBatch:
    return parts.components.source.draw(torch.Generator().manual_seed(seed))


@torch.no_grad()
def walk(parts: Parts, student: Predictor, draws: int) -> list[JumpBatch]:
    """Draw steps and walk on, the self teacher's two DDIM steps at a time, with the weights as they are."""
    target, teacher = parts.components.target, parts.components.teacher
    assert target is not None
    assert teacher is not None
    steps = []
    for seed in range(draws):
        jumps = draw(parts, seed)
        prediction = student(jumps.z, jumps.times[0], jumps.condition)
        parts.components.source.advance(target.compute(jumps, prediction, teacher, student.path).z_next)
        steps.append(jumps)
    return steps


def test_a_trajectory_is_what_sampling_walks(tmp_path: Path) -> None:
    parts = started(tmp_path, "dsdi", 8, "source.batch=3", "source.guidance=2.0", 'teacher.type="self"')
    steps = walk(parts, parts.student, 5)
    assert [jumps.times[:, 0].tolist() for jumps in steps[:4]] == [
        [999, 874, 749],
        [749, 624, 499],
        [499, 374, 249],
        [249, 124, -1],
    ]
    # From the same noise, the walk's landings are on the sampler's way: its last one is the sample.
    seen = {}

    def remember(module: nn.Module, arguments: tuple[Tensor, Tensor], result: object) -> None:
        z, t = arguments
        seen[int(t[0])] = z.chunk(2)[0]  # guided: the same twice

    hook = parts.student.network.register_forward_hook(remember)
    landed = sample(parts.student, steps[0].z, steps[0].condition, 8)
    hook.remove()
    for jumps in steps[:4]:
        torch.testing.assert_close(jumps.z, seen[int(jumps.times[0, 0])], rtol=0, atol=1e-6)
        assert torch.equal(jumps.condition.inputs["class_labels"], steps[0].condition.inputs["class_labels"])
    # Then it begins anew, with other noise and other classes.
    assert steps[4].times[:, 0].tolist() == [999, 874, 749]
    assert not torch.isclose(steps[4].z, steps[0].z).any()
    target, teacher = parts.components.target, parts.components.teacher
    assert target is not None
    assert teacher is not None
    with torch.no_grad():
        first = parts.student(steps[3].z, steps[3].times[0], steps[3].condition)
        last = target.compute(steps[3], first, teacher, parts.student.path)
    torch.testing.assert_close(last.z_next, landed, rtol=0, atol=1e-6)


def test_staggered_samples_stand_at_different_places(tmp_path: Path) -> None:
    """Four samples on a walk of four jumps: after the first, cut short, walks there is one at every place."""
    parts = started(tmp_path, "dsdi", 8, "source.batch=4", "source.staggered=true", "source.guidance=[1.0, 3.0]")
    steps = walk(parts, parts.student, 12)
    starts = torch.stack([jumps.times[0] for jumps in steps])  # [draws, B]
    assert starts[0].tolist() == [999] * 4
    for places in starts[4:]:
        assert sorted(places.tolist()) == [249, 499, 749, 999]
    # Only those that begin get new noise, class and guidance.
    for before, after in itertools.pairwise(steps):
        new = after.times[0] == 999
        assert new.any()
        for key in ("guidance", "class_labels"):
            kept, now = value(before, key), value(after, key)
            assert torch.equal(kept[~new], now[~new])
        assert not torch.isin(value(after, "guidance")[new], value(before, "guidance")).any()
        noise = after.z[new]
        assert not any(torch.equal(z, old) for z in noise for old in before.z)
        assert 0.7 < noise.std() < 1.3


def value(jumps: JumpBatch, key: str) -> Tensor:
    found = jumps.condition.guidance if key == "guidance" else jumps.condition.inputs[key]
    assert found is not None
    return found


def test_a_batch_larger_than_the_walk_is_spread_evenly(tmp_path: Path) -> None:
    parts = started(tmp_path, "dsdi", 4, "source.batch=6", "source.staggered=true")
    steps = walk(parts, parts.student, 6)
    for jumps in steps[2:]:
        assert jumps.times[0].tolist().count(999) == 3


def test_strides_longer_than_two(tmp_path: Path) -> None:
    parts = started(tmp_path, "luhman", 5, "source.batch=2", stride=5)
    assert draw(parts, 0).times[:, 0].tolist() == [999, 799, 599, 399, 199, -1]


def test_no_guidance_where_all_is_one(tmp_path: Path) -> None:
    assert draw(started(tmp_path, "dsdi", 4, "source.guidance=1.0"), 0).condition.guidance is None
    assert draw(started(tmp_path, "dsdi", 4, "source.guidance=[1.0, 1.0]"), 0).condition.guidance is None
    scales = draw(started(tmp_path, "dsdi", 4, "source.guidance=[1.0, 3.0]", "source.batch=200"), 0).condition.guidance
    assert scales is not None
    assert 1 <= scales.min() < 1.2
    assert 2.8 < scales.max() <= 3


# --- noised data -----------------------------------------------------------------------------------------------------


def test_noised_data_is_noised_to_times_of_the_grid(tmp_path: Path) -> None:
    parts = started(tmp_path, "pd", 8, "source.batch=64")
    jumps = draw(parts, 0)
    assert jumps.data is not None
    assert jumps.noise is not None
    assert {tuple(times) for times in jumps.times.T.tolist()} == {
        (999, 874, 749),
        (749, 624, 499),
        (499, 374, 249),
        (249, 124, -1),
    }
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square()
    bar = (1 - betas).cumprod(0)[jumps.times[0]].view(-1, 1, 1, 1)
    expected = bar.sqrt() * jumps.data + (1 - bar).sqrt() * jumps.noise
    torch.testing.assert_close(jumps.z.double(), expected, rtol=0, atol=1e-5)
    # The pictures and labels of the data set, and noise that is noise.
    data = parts.components.data
    assert data is not None
    pictures, labels = data.batch(torch.arange(len(data)))
    assert labels is not None
    for picture, label in zip(jumps.data, jumps.condition.inputs["class_labels"], strict=True):
        assert any(torch.equal(picture, other) for other in pictures[labels == label])
    assert jumps.noise.std() == pytest.approx(1, abs=0.05)
    assert not torch.equal(draw(parts, 1).times, jumps.times)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_dropped_labels(tmp_path: Path, share: float) -> None:
    parts = started(tmp_path, "pd", 4, "source.batch=1000", f"source.drop_labels={share}")
    dropped = (draw(parts, 0).condition.inputs["class_labels"] == 10).float().mean().item()
    assert dropped == pytest.approx(share, abs=0.05 if 0 < share < 1 else 0)


def test_bf16_is_near_fp32_and_repeats(tmp_path: Path) -> None:
    runs = [
        distil(tmp_path / f"{i}", "tsd", *SHORT, "optimizer.learning_rate=1e-4", f'engine.precision="{precision}"')
        for i, precision in enumerate(("fp32", "bf16", "bf16"))
    ]
    assert equal(runs[1].weights(), runs[2].weights())
    assert not equal(runs[0].weights(), runs[1].weights())
    assert {weight.dtype for weight in runs[1].weights().values()} == {torch.float32}
    # The first losses are those of the same weights on the same noise.
    assert runs[1].losses[0] == pytest.approx(runs[0].losses[0], rel=0.2)
    for name, weight in runs[0].weights().items():
        torch.testing.assert_close(runs[1].weights()[name], weight, rtol=0, atol=2e-3)


def test_the_teacher_is_left_out_where_the_config_says_so(tmp_path: Path) -> None:
    short = ("run.updates=1", "schedule.start=4", "evaluation.samples=5")
    both, alone = (
        distil(tmp_path / which, "dsdi", *short, f"evaluation.teacher={which}", tables=MODEL + PLAIN + SCORED)
        for which in ("true", "false")
    )
    rows = [json.loads((run.folder / "scores.json").read_text(encoding="utf-8")) for run in (both, alone)]
    assert [[row["model"] for row in found] for found in rows] == [["teacher", "student"], ["student"]]
    assert both.score("student", 2) == alone.score("student", 2)
    heights = []
    for found in (both, alone):
        with Image.open(found.folder / "samples/steps-002.png") as sheet:
            heights.append(sheet.height)
    assert heights[0] > 2 * heights[1], "the sheet has no row of the teacher's"
