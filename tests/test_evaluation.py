"""Scoring samples: against the same numbers made by hand, and what it must leave alone."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from distillkit_engines.torch_engine import TorchEngine
from distillkit_fashion.fashion import Fashion
from distillkit_metrics.features import Pixels
from distillkit_metrics.metrics import FrechetDistance, KernelDistance, Spread
from helpers.toys import TinyModel
from PIL import Image
from torch import Tensor

from distillkit.config import Components, EvaluationTable, GridTable, OptimizerTable, RunTable
from distillkit.errors import DistillkitError
from distillkit.evaluation import Evaluator, Pictures, sheet, to_uint8, write_png
from distillkit.interfaces import Data, Features, Metric
from distillkit.sampling import noise_for, sample, sample_consistency
from distillkit.terminal import print_scores

CPU = torch.device("cpu")


class Checks(Data):
    """Twenty pictures that say their number."""

    name = "checks"

    def setup(self) -> None:
        draws = torch.Generator().manual_seed(1)
        self.images = torch.rand(20, 1, 4, 4, generator=draws) * 2 - 1

    classes = None

    def __len__(self) -> int:
        return 20

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.images[indices], None


def settings(
    features: Features | None = None, metrics: list[Metric] | None = None, data: bool = True, **evaluation: Any
) -> Components:
    checks = Checks(Checks.Options())
    checks.setup()
    unused = cast(Any, None)
    return Components(
        origin="test",
        tables={},
        run=RunTable(name="test", updates=1),
        grid=GridTable(),
        optimizer=OptimizerTable(),
        ema=None,
        student=None,
        evaluation=EvaluationTable(**{"batch": 5, "reference": "data", **evaluation}),
        model=unused,
        teacher=None,
        target=None,
        critic=None,
        critic_engine=None,
        schedule=unused,
        source=unused,
        data=checks if data else None,
        losses=[],
        engine=unused,
        features=Pixels(Pixels.Options()) if features is None else features,
        metrics=[FrechetDistance(FrechetDistance.Options())] if metrics is None else metrics,
        tracker=unused,
    )


def model() -> TinyModel:
    made = TinyModel(TinyModel.Options())
    made.load()
    return made


def evaluator(tiny: TinyModel, **options: Any) -> Evaluator:
    return Evaluator(settings(**options), tiny, CPU, nullcontext)


def test_rounding_inverts_the_scale_and_clamps() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(every.float() / 127.5 - 1), every)
    assert to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_a_score_is_what_one_gets_by_hand() -> None:
    tiny = model()
    metrics = [FrechetDistance(FrechetDistance.Options()), Spread(Spread.Options())]
    score = evaluator(tiny, seed=7, metrics=metrics).score(tiny.predictor(), steps=4, samples=12)

    labels = torch.arange(12) % 3
    tiny.network.eval()
    drawn = sample(tiny.predictor(), noise_for(7, range(12), (1, 4, 4)), tiny.condition(labels, 12), 4)
    pixels = np.clip(np.round((drawn.double().numpy() + 1) * 127.5), 0, 255).reshape(12, 16) / 127.5 - 1
    images = Checks(Checks.Options())
    images.setup()
    real = np.clip(np.round((images.images.double().numpy() + 1) * 127.5), 0, 255).reshape(20, 16) / 127.5 - 1
    a, b = np.cov(pixels, rowvar=False), np.cov(real, rowvar=False)
    values = np.linalg.eigvals(a @ b).real.clip(0)
    exact = ((pixels.mean(0) - real.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * np.sqrt(values).sum()
    # Image i has the class i modulo 3.
    spread = np.mean([pixels[i::3].var(0, ddof=1).sum() for i in range(3)])
    assert score == {"fd-pixels": pytest.approx(exact, rel=1e-4), "spread-pixels": pytest.approx(spread, rel=1e-4)}


@pytest.mark.parametrize("key", ["samples", "every_samples"])
def test_a_metric_of_one_class_needs_two_samples_of_it(key: str) -> None:
    with pytest.raises(DistillkitError, match=rf"^evaluation\.{key}: .* 3 samples are at most one of each of 3; take"):
        evaluator(model(), metrics=[Spread(Spread.Options())], every=1, **{key: 3})


def test_a_score_does_not_depend_on_the_batch() -> None:
    tiny = model()
    scores = [
        evaluator(tiny, batch=batch).score(tiny.predictor(), steps=3, samples=11)["fd-pixels"] for batch in (3, 100)
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_scoring_leaves_everything_as_it_was() -> None:
    tiny = model()
    predictor = tiny.predictor()
    predictor.evaluations.count = 41
    metrics = [KernelDistance(KernelDistance.Options(subsets=2, subset_size=8))]
    judge = evaluator(tiny, metrics=metrics)
    state = torch.random.get_rng_state()
    first = judge.score(predictor, steps=2, samples=10)
    assert judge.score(predictor, steps=2, samples=10) == first
    assert torch.equal(torch.random.get_rng_state(), state)
    assert predictor.evaluations.count == 41
    assert tiny.network.drop.training
    assert not tiny.network.frozen.training
    assert all(parameter.grad is None for parameter in predictor.network.parameters())


def test_progress_is_told_in_pictures() -> None:
    tiny, told = model(), list[int]()
    Evaluator(settings(), tiny, CPU, nullcontext).score(tiny.predictor(), steps=1, samples=12, on_batch=told.append)
    assert told == [5, 5, 2]


def test_pictures_take_turns_at_the_classes() -> None:
    tiny = model()
    pictures = Pictures(EvaluationTable(batch=4), tiny, CPU, nullcontext)
    first = pictures.first(tiny.predictor(), 2, 7)
    assert first.dtype == torch.uint8
    assert torch.equal(pictures.draw(tiny.predictor(), 2, range(7), labels=[0, 1, 2, 0, 1, 2, 0]), first)
    assert not torch.equal(pictures.draw(tiny.predictor(), 2, range(7), labels=[1] * 7), first)


def test_guidance_is_one_call_of_twice_the_batch_and_none_where_it_is_one() -> None:
    tiny = model()
    shots = {}
    for guidance in (1.0, 3.0):
        pictures = Pictures(EvaluationTable(guidance=guidance), tiny, CPU, nullcontext)
        shots[guidance] = pictures.first(tiny.predictor(), 1, 4)
    assert tiny.network.batches == [4, 8]
    assert not torch.equal(shots[1.0], shots[3.0])


def test_the_student_is_drawn_by_the_sampler_of_the_config_and_the_teacher_by_ddim() -> None:
    tiny = model()
    tiny.network.eval()
    pictures = Pictures(EvaluationTable(sampler="consistency", batch=3, seed=7), tiny, CPU, nullcontext)
    drawn = {which: pictures.first(tiny.predictor(), 3, 8, which) for which in ("teacher", "student")}
    noises = torch.stack([noise_for(7, range(8), (1, 4, 4), step) for step in range(3)])
    condition = tiny.condition(torch.arange(8) % 3, 8)
    expected = {
        "teacher": sample(tiny.predictor(), noises[0], condition, 3),
        "student": sample_consistency(tiny.predictor(), lambda step: noises[step], condition, 3),
    }
    assert all(torch.equal(drawn[which], to_uint8(images)) for which, images in expected.items())
    assert not torch.equal(drawn["teacher"], drawn["student"])


def test_the_protocol_names_a_sampler_that_is_not_ddim() -> None:
    judge = evaluator(model(), sampler="consistency")
    student, teacher = (judge.protocol("fd-pixels", 12, which) for which in ("student", "teacher"))
    assert student == teacher.replace("from 99;", "from 99; sampler consistency;")
    assert teacher == evaluator(model()).protocol("fd-pixels", 12)


def test_the_reference_is_the_bundled_one_where_there_is_one() -> None:
    fashion, tiny = Fashion(Fashion.Options()), model()
    for wanted in ("auto", "bundled"):
        reference = evaluator(tiny, features=fashion, reference=wanted).reference
        assert reference is not None
        assert reference.count == 60000
    of_data = evaluator(tiny, reference="auto").reference
    assert of_data is not None
    assert of_data.count == 20


def test_rows_say_the_protocol() -> None:
    tiny = model()
    metrics = [FrechetDistance(FrechetDistance.Options()), KernelDistance(KernelDistance.Options(subsets=2))]
    judge = evaluator(tiny, metrics=metrics, seed=3)
    rows = judge.rows("student", 4, 12, {"fd-pixels": 1.5, "kd-pixels": 0.5})
    pixels, real = judge.protocol("fd-pixels", 12).split("; ")[1:4:2]
    assert pixels.startswith("pixels ")
    assert real.startswith("20 real ")
    assert rows[0] == {
        "model": "student",
        "steps": 4,
        "metric": "fd-pixels",
        "value": 1.5,
        "samples": 12,
        "protocol": (
            f"fid; {pixels}; round((x + 1) * 127.5); {real}; 12 samples; trailing from 99; seed 3; guidance 1; float32"
        ),
    }
    assert rows[1]["protocol"].startswith("kid subsets 2 subset_size 1000; ")


@pytest.mark.parametrize("change", [{"seed": 1}, {"guidance": 2.0}, {"samples": 9}, {"start": 49}, {"data": 1}])
def test_scores_taken_otherwise_have_another_protocol(change: dict[str, Any]) -> None:
    def protocol(samples: int = 12, start: int | Literal["auto"] = "auto", data: int = 0, **evaluation: Any) -> str:
        tiny, given = model(), replace(settings(**evaluation), grid=GridTable(start=start))
        cast(Checks, given.data).images[data, 0, 0, 0] = 1
        return Evaluator(given, tiny, CPU, nullcontext).protocol("fd-pixels", samples)

    assert protocol() == protocol(batch=7, steps=(3,))
    assert protocol(**change) != protocol()


@pytest.mark.parametrize(("precision", "said"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_the_protocol_ends_with_the_precision(precision: str, said: str) -> None:
    engine = TorchEngine(TorchEngine.Options.model_validate({"device": "cpu", "precision": precision}))
    engine.setup()
    protocol = Evaluator(settings(), model(), CPU, engine.autocast).protocol("fd-pixels", 12)
    assert protocol.rpartition("; ")[2] == said


def test_without_metrics_there_are_no_scores() -> None:
    tiny = model()
    assert evaluator(tiny, metrics=[]).score(tiny.predictor(), 2, 10) == {}
    assert tiny.network.batches == []


def test_sheet_and_png(tmp_path: Path) -> None:
    rows = [torch.full((3, 1, 8, 8), 10, dtype=torch.uint8), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)]
    rows[1][:, 0] = 200
    picture = sheet(rows)
    # 8 px are enlarged 8 times, and so are the gaps of 2.
    assert picture.shape == ((2 * 10 + 2) * 8, (3 * 10 + 2) * 8, 3)
    assert picture[16 : 16 + 64, 16 : 16 + 64].eq(10).all()
    assert picture[96 : 96 + 64, 96 : 96 + 64].eq(torch.tensor([200, 0, 0], dtype=torch.uint8)).all()
    assert picture[96:, 176:].eq(255).all()
    assert picture[:16].eq(255).all()

    labelled = sheet(rows, ["teacher 32", "student 4"])
    assert torch.equal(labelled[:, -picture.shape[1] :], picture)
    margin = labelled[:, : -picture.shape[1]]
    assert margin[:88].min() < 50
    assert margin[88:].min() < 50

    write_png(tmp_path / "samples" / "sheet.png", labelled)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "samples" / "sheet.png")), labelled.numpy())


def test_a_sheet_of_other_channels_shows_the_first() -> None:
    two = torch.randint(256, (3, 2, 8, 8), dtype=torch.uint8)
    assert torch.equal(sheet([two]), sheet([two[:, :1]]))


def test_large_pictures_keep_their_size() -> None:
    assert sheet([torch.zeros(1, 3, 70, 64, dtype=torch.uint8)]).shape == (74, 68, 3)


def test_table_of_scores(capsys: pytest.CaptureFixture[str]) -> None:
    def row(model: str, steps: int, value: float) -> dict[str, Any]:
        return {"model": model, "steps": steps, "metric": "fd-fashion", "value": value, "samples": 1000}

    print_scores([row("teacher", 1, 150.04), row("teacher", 16, 22.0), row("student", 1, 39.123)])
    title, columns, _, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert title == ["fd-fashion,", "1000", "samples"]
    assert columns == ["model", "1", "step", "16", "steps"]
    assert rows == [["teacher", "150", "22"], ["student", "39.12"], []]
