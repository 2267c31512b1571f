"""EDM: U-Nets with preconditioning on the path α = 1, against EDMEulerScheduler in a stock pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
)
from helpers.digits import PLAIN, settings
from helpers.networks import unet
from helpers.pipelines import assert_trained_alone, distil, load, own, stock, stock_alone

from distillkit.config import Config
from distillkit.errors import ConfigError, DistillkitError
from distillkit.sampling import noise_for
from distillkit.training.run import run

NOISE = noise_for(0, range(3), (3, 8, 8))


def pipeline(folder: Path, scheduler: Any = None, **network: Any) -> Path:
    """A teacher's folder."""
    ConsistencyModelPipeline(unet(**network), scheduler or EDMEulerScheduler()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_samples_as_the_stock_pipeline(tmp_path: Path, schedule: Any, kind: Any) -> None:
    scheduler = EDMEulerScheduler(sigma_schedule=schedule, prediction_type=kind, sigma_max=20.0, sigma_data=0.7)
    model = load(pipeline(tmp_path, scheduler))
    assert (model.spec.sample_shape, model.spec.classes, model.spec.prediction, model.spec.path.spacing) == (
        (3, 8, 8),
        None,
        "sample",
        "linspace",
    )
    for steps in (2, 5):
        pipe = ConsistencyModelPipeline.from_pretrained(tmp_path)
        theirs = stock(pipe, NOISE, batch_size=3, num_inference_steps=steps)
        ours = own(model, NOISE, steps)
        assert ours.std() > 0.05
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("spacing", "scheduler"), [("trailing", EDMEulerScheduler()), ("linspace", EDMDPMSolverMultistepScheduler())]
)
def test_an_export_samples_the_same_where_there_is_no_distillkit(tmp_path: Path, spacing: str, scheduler: Any) -> None:
    teacher = pipeline(tmp_path / "teacher", scheduler)
    found, made = distil(tmp_path / "top", teacher, "dsdi", f'grid.spacing="{spacing}"')
    assert_trained_alone(found, made, [])
    folder = found.folder / "pipeline"
    scheduler = EDMEulerScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(2)
    middle = {"trailing": 2.5152, "linspace": 0.002}[spacing]
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([80.0, middle, 0.0]), rtol=1e-4, atol=0)
    before, after = unet().state_dict(), found.weights()
    assert any(not torch.equal(after[name], weight) for name, weight in before.items())
    model = load(folder)
    assert model.spec.path.spacing == spacing
    # Whoever distils it further has the path that it was trained on.
    assert model.spec.path.sigma_min == (0.002 if spacing == "trailing" else pytest.approx(0.002))
    theirs = stock_alone(folder, NOISE, tmp_path / "alone", batch_size=3, num_inference_steps=2)
    # Rounding of states that begin at 80 times the noise.
    torch.testing.assert_close(theirs, own(model, NOISE, 2), rtol=0, atol=2e-5)
    assert "deterministic (Euler)" in (folder / "README.md").read_text(encoding="utf-8")


def test_class_conditional_with_guidance(tmp_path: Path) -> None:
    """What no stock pipeline does: the folder brings its own."""
    unet(num_class_embeds=5).save_pretrained(tmp_path / "teacher/unet")
    EDMEulerScheduler().save_pretrained(tmp_path / "teacher/scheduler")
    options = ("source.guidance=2.0", "evaluation.guidance=2.0")
    found, _ = distil(tmp_path / "top", tmp_path / "teacher", "dsdi", *options, model="null_class = 4")
    folder = found.folder / "pipeline"
    model = load(folder)
    assert (model.spec.classes, model.spec.supports_guidance) == (4, True)
    theirs = stock_alone(folder, NOISE, tmp_path / "alone", trusted=True, class_labels=[0, 3, 2])
    torch.testing.assert_close(theirs, own(model, NOISE, 2, [0, 3, 2], 2.0), rtol=0, atol=1e-5)
    assert (own(model, NOISE, 2, [0, 3, 2]) - theirs).abs().max() > 1e-3


def test_a_new_network_is_trained_on_data(tmp_path: Path) -> None:
    """The config's scheduler says what it is."""
    shape = "sample_size = 8, in_channels = 1, out_channels = 1, block_out_channels = [8, 8], norm_num_groups = 4"
    blocks = 'down_block_types = ["DownBlock2D", "DownBlock2D"], up_block_types = ["UpBlock2D", "UpBlock2D"]'
    tables = f'[model]\ntype = "diffusers"\nnetwork = {{ {shape}, {blocks} }}\n'
    tables += 'scheduler = { _class_name = "EDMEulerScheduler", sigma_data = 0.5 }\n' + PLAIN
    loss = ['loss[0].type="x-mse"', 'loss[0].against="data"', 'grid.start="auto"', 'loss[0].weighting="snr-plus-one"']
    made = settings(tmp_path, "training", "run.updates=3", "source.batch=4", *loss, tables=tables)
    run(Config.of(made), tmp_path / "run")
    assert load(tmp_path / "run/pipeline").spec.prediction == "sample"


# --- what does not ---------------------------------------------------------------------------------------------------


def mistakes(folder: Path, *assignments: str, **options: Any) -> str:
    """The mistakes of a run that it stops."""
    with pytest.raises(DistillkitError) as caught:
        distil(folder.parent / "top", folder, "dsdi", *assignments, **options)
    assert not (folder.parent / "top/run").exists()
    found = caught.value
    return "\n".join(map(str, found.mistakes)) if isinstance(found, ConfigError) else str(found)


def test_mistakes(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "teacher")
    cases = {
        'grid.spacing="leading"': (
            'grid.spacing: is "leading", and grids of the model\'s noise path, which begin at pure noise, cannot be '
            '"leading"; expected one of "trailing", "linspace", "angle", "karras", or a blend of two of them'
        ),
        "grid.start=500": (
            "grid.start: is 500, and the grids of the model's noise path begin at its noisiest time; leave it out"
        ),
        'evaluation.sampler="consistency"': (
            f'evaluation.sampler: is "consistency", which the exported pipeline of {folder} cannot use; expected ddim'
        ),
    }
    for assignment, message in cases.items():
        assert mistakes(folder, assignment) == message
    assert mistakes(folder, model="cosine = [-20.0, 20.0]") == (
        "model.cosine: means nothing to ConsistencyModelPipeline; leave it out"
    )
    for key, value, known in (
        ("sigma_schedule", "cosine", '"karras" or "exponential"'),
        ("prediction_type", "sample", '"epsilon" or "v_prediction"'),
    ):
        assert mistakes(folder, model=f'scheduler = {{ {key} = "{value}" }}') == (
            f'model.scheduler.{key}: is "{value}"; expected {known}'
        )


def test_consistency_models_are_another_kind(tmp_path: Path) -> None:
    folder = pipeline(tmp_path / "teacher", CMStochasticIterativeScheduler())
    assert mistakes(folder) == (
        "model.scheduler: is a CMStochasticIterativeScheduler; expected one of EDMEulerScheduler, "
        "EDMDPMSolverMultistepScheduler (scheduler._class_name)"
    )
