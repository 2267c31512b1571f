"""The cosine path: against its formula in float64, in every source, and exported to diffusers."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ConfigFile
from diffusers import DiffusionPipeline
from distillkit_diffusers.model import DiffusersModel
from helpers.digits import MODEL, PLAIN, distil, settings

from distillkit.config import read_config
from distillkit.errors import ConfigError, GridError
from distillkit.interfaces import Export, JumpBatch, Stage
from distillkit.noise import CosinePath, Predictor
from distillkit.sampling import noise_for, sample
from distillkit.training import assemble

# diffusers' DPM-Solver has not kept up with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LOW, HIGH = -20.0, 20.0


def network(times: int) -> str:
    """A new network on the path."""
    return f"""
[model]
type = "diffusers"
cosine = [{LOW}, {HIGH}]
scheduler = {{ num_train_timesteps = {times}, prediction_type = "v_prediction" }}
[model.network]
sample_size = 8
in_channels = 1
out_channels = 1
block_out_channels = [8, 8]
layers_per_block = 1
down_block_types = ["DownBlock2D", "DownBlock2D"]
up_block_types = ["UpBlock2D", "UpBlock2D"]
norm_num_groups = 4
num_class_embeds = 11
"""


def logsnr(u: np.ndarray, low: float = LOW, high: float = HIGH) -> np.ndarray:
    """λ(u) = −2 log tan(a·u + b), from λ_max at u = 0 to λ_min at u = 1, in float64."""
    b = np.arctan(np.exp(-high / 2))
    a = np.arctan(np.exp(-low / 2)) - b
    return -2 * np.log(np.tan(a * u + b))


@pytest.mark.parametrize(("times", "low", "high"), [(1000, -20.0, 20.0), (1024, -20.0, 20.0), (64, -8.0, 12.0)])
def test_log_snr_is_the_cosine_between_its_bounds(times: int, low: float, high: float) -> None:
    path = CosinePath(times, (low, high))
    u = np.concatenate([[1e-4, 1 / times, 0.5, 1 - 1 / times, 1.0], np.random.default_rng(0).uniform(0, 1, 200)])
    t = torch.from_numpy(u * times - 1)
    expected = logsnr(u, low, high)
    np.testing.assert_allclose(path.snr(t).flatten().double().log(), expected, rtol=0, atol=2e-6)
    # α² and σ² are the sigmoids of λ and −λ.
    np.testing.assert_allclose(path.alpha_sigma(t)[0].flatten().square(), 1 / (1 + np.exp(-expected)), rtol=1e-6)
    np.testing.assert_allclose(path.alpha_sigma(t)[1].flatten().square(), 1 / (1 + np.exp(expected)), rtol=1e-6)
    assert path.snr(torch.tensor([times - 1.0])).log().item() == pytest.approx(low)
    assert path.snr(torch.tensor([-1 + 1e-9], dtype=torch.float64)).log().item() == pytest.approx(high)
    assert path.alpha_sigma(t)[0].dtype == torch.float32
    # Clean data are clean.
    assert (path.alpha_sigma(torch.tensor([-1.0]))[0].item(), path.alpha_sigma(torch.tensor([-1]))[1].item()) == (1, 0)


def test_at_whole_times_it_is_the_table() -> None:
    path = CosinePath(1000, (LOW, HIGH))
    bars = 1 / (1 + np.exp(-logsnr(np.arange(1, 1001) / 1000)))
    np.testing.assert_allclose(path.alphas_cumprod, bars, rtol=1e-9)
    np.testing.assert_allclose(path.alpha_sigma(torch.arange(1000))[0].flatten().double().square(), bars, rtol=1e-6)


@pytest.mark.parametrize(
    ("spacing", "start", "steps", "expected"),
    [
        ("trailing", None, 4, [999, 749, 499, 249, -1]),
        ("trailing", None, 16, [*np.arange(16, 0, -1) * 62.5 - 1, -1]),  # not 61 or 62, but 61.5
        ("trailing", 831, 3, [831, 832 * 2 / 3 - 1, 832 / 3 - 1, -1]),
        ("leading", None, 4, [751, 501, 251, 1, -1]),
        ("leading", None, 16, [*np.arange(15, -1, -1) * 62.5 + 1, -1]),
        ("linspace", None, 4, [999, 749.25, 499.5, 249.75, -1]),
    ],
)
def test_grids_are_not_rounded(spacing: str, start: int | None, steps: int, expected: list[float]) -> None:
    grid = CosinePath(1000, (LOW, HIGH), spacing, start).grid(steps)
    assert grid.dtype == torch.float64
    np.testing.assert_allclose(grid, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [3, 7, 49, 1000])
def test_grids_begin_and_end_exactly(steps: int) -> None:
    grid = CosinePath(1000, (LOW, HIGH)).grid(steps)
    assert (grid[0].item(), grid[-1].item(), len(grid)) == (999, -1, steps + 1)


def test_grids_that_do_not_exist() -> None:
    with pytest.raises(GridError, match=r"^a grid of 0 steps needs at least 1$"):
        CosinePath(1000, (LOW, HIGH)).grid(0)
    with pytest.raises(GridError, match=r"^a leading grid of 1000 steps would begin at 1000, past 999$"):
        CosinePath(1000, (LOW, HIGH), "leading").grid(1000)


def test_auto_start_of_an_eps_network() -> None:
    """The noisiest time at which tan(a·u + b) = σ/α is at most 20, and so that 32 divides the times up to it."""
    made = CosinePath(1000, (LOW, HIGH)).with_grid("trailing", "auto", "epsilon")
    assert isinstance(made, CosinePath)
    u = (np.arctan(20) - np.arctan(np.exp(-10))) / (np.arctan(np.exp(10)) - np.arctan(np.exp(-10)))
    assert made.start == int(u * 1000) // 32 * 32 - 1
    assert made.with_grid("trailing", "auto", "v_prediction").start == 999


# --- sources ---------------------------------------------------------------------------------------------------------


def draw(folder: Path, tables: str, *options: str, steps: int, stride: int = 2) -> JumpBatch:
    """A thousand jumps of `noised-data`."""
    made = settings(folder, "pd", "run.updates=100", "source.batch=1000", *options, tables=tables + PLAIN).components()
    parts = assemble.load(made)
    assemble.prepare(parts)
    made.source.start_stage(Stage(steps, 100, stride), parts.student.path)
    return made.source.draw(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_uniform_times(tmp_path: Path, stride: int) -> None:
    jumps = draw(tmp_path, network(1000), 'source.times="uniform"', steps=12, stride=stride)
    u = ((jumps.times + 1) / 1000).numpy()
    start, end = u[0], u[-1]
    # Evenly over (0, 1]: the empirical distribution is near the diagonal (Kolmogorov–Smirnov at 1 in 1000).
    assert np.abs(np.sort(start) - np.arange(1, 1001) / 1000).max() < 1.95 / 1000**0.5
    assert start.min() > 0
    # Jumps of `stride` twelfths in equal parts, cut short at clean data.
    np.testing.assert_allclose(end, np.maximum(start - stride / 12, 0), atol=1e-12)
    np.testing.assert_allclose(np.diff(u, axis=0), np.broadcast_to((end - start) / stride, (stride, 1000)), atol=1e-12)
    cut = start < stride / 12
    assert 0 < cut.mean() < 1.5 * stride / 12
    assert set(jumps.times[-1, torch.from_numpy(cut)].tolist()) == {-1.0}
    # And the samples are noised to them.
    assert jumps.data is not None
    assert jumps.noise is not None
    angle = np.arctan(np.exp(-logsnr(start) / 2)).reshape(-1, 1, 1, 1)
    expected = np.cos(angle) * jumps.data.double().numpy() + np.sin(angle) * jumps.noise.double().numpy()
    np.testing.assert_allclose(jumps.z, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("steps", "stride"), [(8, 2), (7, 3), (999, 3), (1000, 2), (1000, 1)])
def test_uniform_times_of_a_table_are_whole(tmp_path: Path, steps: int, stride: int) -> None:
    jumps = draw(tmp_path, MODEL, 'source.times="uniform"', steps=steps, stride=stride)
    start, end = jumps.times[0].double(), jumps.times[-1].double()
    assert jumps.times.dtype == torch.int64
    # From the last time down to where every fine step has a time of its own.
    assert (jumps.times.diff(dim=0) < 0).all()
    assert start.min() >= stride - 1
    assert 990 < start.max() <= 999
    assert len(set(start.tolist())) > 550  # of 1000 drawn from about 1000, 632 are expected
    torch.testing.assert_close(end, (start - stride * 1000 / steps).clamp(min=-1), rtol=0, atol=0.5)


SOURCES = {
    "pd": ("schedule.start=6", "schedule.stop=6"),
    "tsd": ("schedule.start=6", "schedule.stop=6"),
    "dsdi": ("schedule.start=6", "schedule.stop=6", "source.staggered=true", "grid.spacing='linspace'"),
    "luhman": ("schedule.steps=3", "grid.spacing='leading'"),
    "dsd-training": ("schedule.steps=7", "target.type='noisier-step'"),
    "training": ("grid.start='auto'", "source.times='uniform'"),
}


@pytest.mark.parametrize("preset", SOURCES)
def test_every_source_and_target_takes_it(tmp_path: Path, preset: str) -> None:
    """Times between whole numbers included: 6 does not divide 1000."""
    options = ["run.updates=4", "source.batch=4", *SOURCES[preset]]
    run = distil(tmp_path, preset, *options, tables=network(1000) + PLAIN)
    assert np.isfinite(run.losses).all()
    assert all(weight.isfinite().all() for weight in run.weights().values())


# --- diffusers -------------------------------------------------------------------------------------------------------


def model(times: int, spacing: str = "trailing", start: int | None = None) -> DiffusersModel:
    """A new network with random weights on the path."""
    options = {
        "cosine": (LOW, HIGH),
        "scheduler": {"num_train_timesteps": times, "prediction_type": "v_prediction"},
        "network": {
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "block_out_channels": [8, 8],
            "norm_num_groups": 4,
            "layers_per_block": 1,
            "down_block_types": ["DownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "UpBlock2D"],
            "num_class_embeds": 5,
        },
    }
    made = DiffusersModel(DiffusersModel.Options.model_validate(options))
    torch.manual_seed(1)
    made.load()
    made.network.eval()
    made.spec = made.spec.with_grid(spacing, start)
    return made


def exported(made: DiffusersModel, folder: Path, steps: int) -> torch.Tensor:
    """What stock diffusers samples from the exported pipeline, in [0, 1]."""
    settings = {"run": {"name": "tiny", "updates": 3}}
    report = Export(made.spec.path, steps, [steps], 1.0, "training", "a new network", [], settings)
    made.export(made.network, folder, report)
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    noise = noise_for(0, range(4), (1, 8, 8))
    return pipe(class_labels=[0, 1, 2, 3], num_inference_steps=steps, latents=noise, output_type="pt").images


def own(made: DiffusersModel, steps: int) -> torch.Tensor:
    """What distillkit samples."""
    predictor = Predictor(made.network, made.spec.path, made.spec.prediction, made.forward)
    images = sample(predictor, noise_for(0, range(4), (1, 8, 8)), made.condition(torch.arange(4), 4), steps)
    return (images / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(
    ("times", "spacing", "start", "steps"),
    [
        (1000, "trailing", None, 1),
        (1000, "trailing", None, 8),
        (1024, "trailing", None, 32),
        (1024, "trailing", 767, 3),
        (1001, "linspace", None, 5),
        (1000, "leading", None, 5),
    ],
)
def test_export_is_exact_at_whole_times(
    tmp_path: Path, times: int, spacing: str, start: int | None, steps: int
) -> None:
    made = model(times, spacing, start)
    theirs = exported(made, tmp_path / "pipeline", steps)
    torch.testing.assert_close(theirs, own(made, steps), rtol=0, atol=2e-4)
    assert f"exact at\n  {steps} steps" in (tmp_path / "pipeline/README.md").read_text(encoding="utf-8")


def test_export_rounds_times_between_whole_ones_and_says_so(tmp_path: Path) -> None:
    made = model(1000)
    theirs = exported(made, tmp_path / "pipeline", 16)
    card = (tmp_path / "pipeline/README.md").read_text(encoding="utf-8")
    assert "but at\n  16 steps that has times between whole numbers, which diffusers rounds" in card
    assert 1e-5 < (theirs - own(made, 16)).abs().max() < 0.05


def test_times_that_are_handed_are_rounded_too(tmp_path: Path) -> None:
    made = model(1000, "angle")
    theirs = exported(made, tmp_path / "pipeline", 4)
    card = (tmp_path / "pipeline/README.md").read_text(encoding="utf-8")
    assert "for, with\n  the times below, which are rounded, as diffusers has only whole ones\n- Times" in card
    assert "  - 4 steps: `timesteps=[999, 749, 499, 249]`\n\n```python" in card
    # On this path angles are nearly linear in time.
    torch.testing.assert_close(theirs, own(made, 4), rtol=0, atol=2e-3)


def test_an_exported_pipeline_goes_on_where_it_was(tmp_path: Path) -> None:
    """Loaded anew it is a table; with `cosine`, the path again, in the pipeline's own times."""
    first = model(1024)
    exported(first, tmp_path / "pipeline", 4)
    table = DiffusersModel(DiffusersModel.Options(path=tmp_path / "pipeline"))
    again = DiffusersModel(DiffusersModel.Options(path=tmp_path / "pipeline", cosine=(LOW, HIGH)))
    for loaded in (table, again):
        loaded.load()
        loaded.spec = loaded.spec.with_grid("trailing", "auto")
        loaded.network.eval()
        assert loaded.spec.prediction == "v_prediction"
        torch.testing.assert_close(own(loaded, 4), own(first, 4), rtol=0, atol=2e-4)
    assert table.spec.path.grid(7).dtype == torch.int64
    assert torch.equal(again.spec.path.grid(7), first.spec.path.grid(7))


def test_time_embeddings_tell_real_times_apart() -> None:
    made = model(1000)
    z = torch.randn(1, 1, 8, 8)
    outputs = [
        made.forward(made.network, z, torch.tensor([t]), {"class_labels": torch.tensor([0])}) for t in (61, 61.5)
    ]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-6


def test_mistakes(config: ConfigFile) -> None:
    head = 'preset = "training"\n[run]\nupdates = 7\n[data]\ntype = "digits"\n'
    cases = {
        network(1000).replace("[-20.0, 20.0]", "[20.0, -20.0]"): (
            "model.cosine: must be [λ_min, λ_max], the lower first"
        ),
        network(1000).replace("20.0]", "30.0]"): "model.cosine[1]: must be at most 25 (got 30.0)",
        network(1000).replace("prediction_type", "beta_end = 0.02, prediction_type"): (
            "model.cosine: takes the place of a β schedule: leave out scheduler.beta_end, or this"
        ),
    }
    for tables, message in cases.items():
        path = config.write(head, tables)
        with pytest.raises(ConfigError) as caught:
            read_config(path)
        assert [str(mistake) for mistake in caught.value.mistakes] == [message]
    with pytest.raises(
        ConfigError, match=r"model\.scheduler\.num_train_timesteps: is 0; expected a whole number from 1"
    ):
        model(0)


def test_sampler_walks_the_grid_as_written() -> None:
    """DDIM over the path's own grid in float64, with the network's v."""
    made = model(1000)
    z = noise_for(0, range(4), (1, 8, 8)).double().numpy()
    inputs = made.condition(torch.arange(4), 4).inputs
    for u, s in pairwise(np.arange(6, -1, -1) / 6):
        t = torch.full((4,), u * 1000 - 1, dtype=torch.float64)
        with torch.no_grad():
            v = made.forward(made.network, torch.from_numpy(z).float(), t, inputs).double().numpy()
        angle, after = (np.arctan(np.exp(-logsnr(np.array(x)) / 2)) if x else 0.0 for x in (u, s))
        # x̂ = αz − σv and ε̂ = σz + αv.
        x, eps = np.cos(angle) * z - np.sin(angle) * v, np.sin(angle) * z + np.cos(angle) * v
        z = np.cos(after) * x + np.sin(after) * eps
    np.testing.assert_allclose(own(made, 6), np.clip(z / 2 + 0.5, 0, 1), rtol=0, atol=1e-5)
