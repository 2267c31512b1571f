"""The configs of the paper's experiments, on small networks in the place of theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from helpers.compvis.model import class_conditional_teacher
from helpers.networks import LDM, latent_pipeline
from helpers.snippets import ROOT

from distillkit.config import make_plan, read_config
from distillkit.training import assemble
from distillkit.training.run import run

VARIANTS = ("dsdn", "dsdi", "dsdgl", "dsdgexp", "tsd")
TABLE_3 = {
    "celeba": (4000, 1e-6, 1e-7, (0.9, 0.98), 0.995),
    "lsun_bedroom": (4000, 1e-6, 1e-7, (0.9, 0.98), 0.995),
    "imagenet": (5000, 1e-7, 1e-8, (0.99, 0.999), 0.9995),
}
"""Updates, the learning rate's fall, Adam's β, and the average's decay."""


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small teacher of the kind that a config's data set has."""
    if request.param == "imagenet":
        return class_conditional_teacher(tmp_path / "teacher")
    return latent_pipeline(tmp_path / "teacher", timestep_spacing="leading", steps_offset=1, set_alpha_to_one=False)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("data", "folder"), [(data, data) for data in TABLE_3], indirect=["folder"])
def test_settings_and_times(data: str, folder: Path, variant: str) -> None:
    """Table 3, N from 64, and CompVis' times (its `make_ddim_timesteps`, where their number divides 1000)."""
    config = read_config(ROOT / f"configs/{data}_{variant}.toml", [f"model.path={folder}", "tracker.type=none"])
    settings = config.phases[0].components()
    optimizer, ema = settings.optimizer, settings.ema
    assert ema is not None
    rates = (optimizer.learning_rate, optimizer.final_learning_rate)
    assert (settings.run.updates, *rates, optimizer.betas, ema.decay) == TABLE_3[data]
    assert (optimizer.clip, optimizer.shape, ema.warmup) == (1.0, "cosine", False)
    assert settings.source.options.guidance == ((1.0, 3.0) if data == "imagenet" else 1.0)
    assert (settings.evaluation.steps, settings.evaluation.samples) == ((2, 4, 8), 30000)
    steps = [planned.steps for planned in make_plan(settings)]
    assert (
        steps
        == {
            "dsdn": [64],
            "dsdi": [64, 32, 16, 8, 4, 2],
            "tsd": [64, 32, 16, 8, 4, 2],
            "dsdgl": [*range(64, 0, -2)],
            "dsdgexp": [*range(64, 0, -2)],
        }[variant]
    )
    path = assemble.load(settings).student.path
    for count in (2, 4, 8):
        assert path.grid(count).tolist() == [*reversed([t + 1 for t in range(0, 1000, 1000 // count)]), -1]


@pytest.mark.parametrize(
    ("config", "folder"),
    [("celeba_dsdgl", "celeba"), ("lsun_bedroom_dsdi", "lsun_bedroom"), ("imagenet_tsd", "imagenet")],
    indirect=["folder"],
)
def test_runs(config: str, folder: Path, tmp_path: Path) -> None:
    """As docs/paper.md has it; the pipeline has the times that were trained."""
    words = [f"model.path={folder}", "run.updates=2", "tracker.type=none"]
    run(read_config(ROOT / f"configs/{config}.toml", words), tmp_path / "run")
    own = {"trust_remote_code": True} if config.startswith("imagenet") else {}
    made = DiffusionPipeline.from_pretrained(tmp_path / "run/pipeline", **own)
    assert type(made).__name__ == ("ClassLatentPipeline" if own else "LDMPipeline")
    made.scheduler.set_timesteps(2)
    assert made.scheduler.timesteps.tolist() == [501, 1]
    written = json.loads((tmp_path / "run/pipeline/scheduler/scheduler_config.json").read_text(encoding="utf-8"))
    assert {key: written[key] for key in LDM} == LDM
    assert [path.name for path in sorted((tmp_path / "run/samples").iterdir())] == [
        "steps-002.png",
        "steps-004.png",
        "steps-008.png",
    ]
