"""Spacings that no scheduler's config says: their formulas, the times that are handed, and where they are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from conftest import ConfigFile
from diffusers import ConsistencyModelPipeline, DDIMPipeline, DiTPipeline, EDMEulerScheduler, LDMPipeline
from distillkit_diffusers.families import edm, flow, table
from distillkit_diffusers.model import DiffusersModel
from distillkit_diffusers.pipelines.class_conditional import ClassConditionalPipeline
from helpers.digits import distil, settings, started
from helpers.networks import ddim_scheduler, dit, kl_autoencoder, pixel_unet, unet, vq_autoencoder
from helpers.pipelines import load, own, stock
from helpers.text_pipelines import PROMPTS, flux, sd3, sdxl, stable_diffusion

from distillkit.cli.pipeline import grid_of
from distillkit.config import read_config
from distillkit.errors import ConfigError, DistillkitError, GridError
from distillkit.exporting import load_model
from distillkit.interfaces import Export
from distillkit.noise import CosinePath, EdmPath, FlowPath, NoisePath, TablePath
from distillkit.noise.grids import weights
from distillkit.sampling import generator, noise_for

# Some of diffusers' schedulers have not kept up with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that folders bring along is copied here, and not into the user's cache."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


STEPS = (1, 2, 3, 4, 6, 8)
BARS = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
TABLE = TablePath(torch.from_numpy(BARS))
PATHS: dict[str, NoisePath] = {
    "table": TABLE,
    "cosine": CosinePath(1000, (-20.0, 20.0)),
    "flow": FlowPath(shift=3.0),
    "EDM": EdmPath(),
    "exponential": EdmPath(rho=None),
}
OWN = ("angle", "karras", "trailing + angle", "0.3 karras + 0.7 angle")
PAIRS = [(name, spacing) for name in PATHS for spacing in OWN if name != "flow" or "karras" not in spacing]


def angles(path: NoisePath, times: torch.Tensor) -> Any:
    alpha, sigma = (value.flatten().double().numpy() for value in path.alpha_sigma(times))
    return np.arctan2(sigma, alpha)


# --- formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", PATHS)
def test_angles_fall_evenly_to_clean_data(name: str, steps: int) -> None:
    path = PATHS[name].with_grid("angle", None)
    found = angles(path, path.grid(steps))
    expected = found[0] * np.arange(steps, -1, -1) / steps
    assert found[0] == pytest.approx(angles(path, torch.tensor([path.start]).to(path.grid(1).dtype))[0])
    if name != "table":
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
        return
    # Whole times are the nearest ones: within half a step of the table.
    known = angles(path, torch.arange(-1, 1000))
    np.testing.assert_allclose(np.interp(expected, known, np.arange(-1, 1000)), path.grid(steps), rtol=0, atol=0.5)


@pytest.mark.parametrize("start", [None, 831])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 16, 40])
def test_karras_has_the_noise_levels_of_diffusers_with_one_more_step(steps: int, start: int | None) -> None:
    """diffusers' last level is σ_min, from where distillkit's grids would have no step to clean data."""
    end = 1000 if start is None else start + 1
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000)[:end] ** 2
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=end, trained_betas=betas.tolist(), use_karras_sigmas=True
    )
    scheduler.set_timesteps(steps + 1)
    assert TABLE.with_grid("karras", start).grid(steps)[:-1].tolist() == scheduler.timesteps.tolist()[:-1]


@pytest.mark.parametrize("of", [2, 8, 12])
def test_karras_of_a_number_of_steps_is_diffusers_own(of: int) -> None:
    """And grids of fewer steps have every second, third, … of its times."""
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    scheduler = diffusers.DPMSolverMultistepScheduler(trained_betas=betas.tolist(), use_karras_sigmas=True)
    scheduler.set_timesteps(of)
    path = TABLE.with_grid(f"karras-{of}")
    assert path.grid(of)[:-1].tolist() == scheduler.timesteps.tolist()
    for stride in (2, 4):
        if of % stride == 0:
            assert path.grid(of // stride).tolist() == path.grid(of)[::stride].tolist()
    with pytest.raises(GridError, match=f'^a grid of {of + 1} steps with the spacing "karras-{of}" has {of} times'):
        path.grid(of + 1)


@pytest.mark.parametrize("rho", [7.0, None])
@pytest.mark.parametrize("steps", STEPS)
def test_karras_on_edms_path(rho: float | None, steps: int) -> None:
    path = EdmPath(rho=rho).with_grid("karras")
    scheduler = EDMEulerScheduler()
    scheduler.set_timesteps(steps + 1)
    sigmas = path.alpha_sigma(path.grid(steps))[1].flatten()
    torch.testing.assert_close(sigmas[:-1], scheduler.sigmas[: len(sigmas) - 1], rtol=1e-5, atol=0)
    if rho is not None:
        torch.testing.assert_close(path.grid(steps), path.with_grid("trailing").grid(steps), rtol=0, atol=1e-9)


def test_karras_on_the_cosine_path() -> None:
    path = PATHS["cosine"].with_grid("karras")
    found = np.tan(angles(path, path.grid(4))[:-1]) ** (1 / 7)
    low, high = (np.tan(angles(path, torch.tensor([t])))[0] ** (1 / 7) for t in (0, 999))
    np.testing.assert_allclose(found, low + (high - low) * np.array([1, 0.75, 0.5, 0.25]), rtol=1e-3)


def test_grids_of_ldms_table() -> None:
    assert TABLE.with_grid("angle").grid(4).tolist() == [999, 463, 251, 83, -1]
    assert TABLE.with_grid("karras").grid(4).tolist() == [999, 855, 617, 161, -1]
    # The mean of 999, 749, 499, 249 and of the first row before it was rounded.
    assert TABLE.with_grid("trailing + angle").grid(4).tolist() == [999, 606, 375, 166, -1]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6, 8, 15])
@pytest.mark.parametrize(("name", "spacing"), PAIRS)
def test_grids_nest_and_fall(name: str, spacing: str, steps: int) -> None:
    path = PATHS[name].with_grid(spacing)
    grid, fine = path.grid(steps), path.grid(2 * steps)
    torch.testing.assert_close(fine[::2], grid, rtol=0, atol=0 if name == "table" else 1e-9)
    assert (fine.diff() < 0).all()
    assert (grid[0].item(), grid[-1].item()) == (path.start, path.clean)
    assert grid.dtype == (torch.int64 if name == "table" else torch.float64)


@pytest.mark.parametrize("name", PATHS)
def test_a_blend_is_the_weighted_mean_of_times(name: str) -> None:
    path = PATHS[name]
    one, two = (path.with_grid(spacing).grid(5).double() for spacing in ("linspace", "angle"))
    mixed = path.with_grid("0.25 linspace + 0.75 angle").grid(5).double()
    torch.testing.assert_close(mixed, 0.25 * one + 0.75 * two, rtol=0, atol=1.01 if name == "table" else 1e-9)


def test_a_start_is_the_noisiest_time() -> None:
    for spacing in OWN:
        made = TABLE.with_grid(spacing, "auto", "epsilon")
        assert (made.start, made.grid(4)[0]) == (831, 831)
        # The same as on a table that ends there.
        assert made.grid(4).tolist() == TablePath(TABLE.alphas_cumprod[:832], spacing).grid(4).tolist()


@pytest.mark.parametrize(
    ("spacing", "steps", "message"),
    [
        ("angle", 80, 'a grid of 80 steps with the spacing "angle" would have the time 0 twice'),
        ("karras", 70, 'a grid of 70 steps with the spacing "karras" would have the time 1 twice'),
        ("angle", 128, 'a grid of 128 steps with the spacing "angle" would have the time 1 twice'),
    ],
)
def test_grids_that_whole_times_have_not(spacing: str, steps: int, message: str) -> None:
    with pytest.raises(GridError) as caught:
        TABLE.with_grid(spacing).grid(steps)
    assert str(caught.value) == f'{message}; take fewer steps, or the spacing "trailing"'


# --- as the config says them -----------------------------------------------------------------------------------------


def test_names_and_blends() -> None:
    assert weights("karras") == {"karras": 1}
    assert weights("karras-8 + angle") == {"karras-8": 0.5, "angle": 0.5}
    assert weights("trailing+angle") == weights(" trailing +  angle ") == {"trailing": 0.5, "angle": 0.5}
    assert weights("0.7 trailing + .3 angle") == {"trailing": 0.7, "angle": 0.3}


DSDI = 'preset = "dsdi"\n[run]\nupdates = 4\n[model]\ntype = "fashion"\n[source]\nbatch = 4\n'


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("trailing+angle", "trailing + angle"),
        ("0.5 trailing + 0.5 angle", "trailing + angle"),
        ("0.70 leading+0.3 karras", "0.7 leading + 0.3 karras"),
    ],
)
def test_a_blend_has_one_form_in_the_resolved_config(config: ConfigFile, written: str, resolved: str) -> None:
    [phase] = read_config(config.write(DSDI, ""), overrides=[f"grid.spacing={written}"]).phases
    assert phase.tables["grid"]["spacing"] == resolved


@pytest.mark.parametrize(
    "spacing",
    [
        "even",
        "trailing + trailing",
        "trailing + angle + karras",
        "0.5 trailing + angle",
        "",
        "-1 angle",
        "karras-1",
        "angle-8",
    ],
)
def test_what_no_spacing_is_called(config: ConfigFile, spacing: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(config.write(DSDI, ""), overrides=[f'grid.spacing="{spacing}"'])
    assert str(caught.value.mistakes[0]) == (
        "grid.spacing: must be 'trailing', 'leading', 'linspace', 'angle', 'karras' or as 'karras-8', or a blend of "
        f"two of them, as in 'trailing + angle' or '0.7 trailing + 0.3 angle' (got {spacing!r})"
    )


def test_weights_that_do_not_add_up(config: ConfigFile) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(config.write(DSDI, ""), overrides=["grid.spacing=0.5 trailing + 0.6 angle"])
    assert [*map(str, caught.value.mistakes)] == [
        "grid.spacing: has the weights 0.5 and 0.6, which must add up to 1",
    ]


def test_spacings_that_a_path_has_not() -> None:
    with pytest.raises(
        DistillkitError, match=r'^grid\.spacing: is "karras", and grids of the model\'s noise path, which begin at pure'
    ):
        FlowPath().with_grid("karras")
    zero = TablePath(torch.linspace(0.99, 0, 100))
    assert zero.with_grid("angle").grid(3)[0] == 99
    with pytest.raises(
        DistillkitError, match=r'^grid\.spacing: is "angle \+ karras", which needs σ/α, and α = 0 where the model\'s'
    ):
        zero.with_grid("angle + karras")
    assert zero.with_grid("karras", 98).grid(3)[0] == 98


# --- exports ---------------------------------------------------------------------------------------------------------


def export(model: DiffusersModel, folder: Path, spacing: str, steps: int = 4, start: Any = "auto") -> NoisePath:
    """Write the pipeline of a network that was trained on such grids. Returns its path."""
    model.spec = model.spec.with_grid(spacing, start)
    settings = {"run": {"name": "tiny", "updates": 3}}
    made = Export(model.spec.path, steps, STEPS, 1.0, "dsdi", "a teacher", [], settings)
    model.export(model.network, folder, made)
    return model.spec.path


def assert_read_back(folder: Path, path: NoisePath, **options: Any) -> None:
    """Whoever samples, scores or distils the export has the trained grids, at all numbers of steps."""
    again = load(folder, **options).spec.path
    assert again.spacing == path.spacing
    for steps in (*STEPS, 16):
        torch.testing.assert_close(again.grid(steps), path.grid(steps), rtol=0, atol=1e-6)


TEXT: dict[str, tuple[str, Callable[[Path], None], str, dict[str, Any]]] = {
    # the pipeline's class, a teacher, the spacing, model options
    "sd, ε": ("StableDiffusionPipeline", stable_diffusion, "angle", {}),
    "sdxl, v": ("StableDiffusionXLPipeline", partial(sdxl, prediction_type="v_prediction"), "karras", {}),
    "sd, v, a blend": (
        "StableDiffusionPipeline",
        partial(stable_diffusion, prediction_type="v_prediction", rescale_betas_zero_snr=True),
        "trailing + angle",
        {},
    ),
    "sd3": ("StableDiffusion3Pipeline", partial(sd3, shift=3.0), "angle", {}),
    "sd3, a blend": ("StableDiffusion3Pipeline", partial(sd3, shift=3.0), "0.3 linspace + 0.7 angle", {}),
    "flux dev": (
        "FluxPipeline",
        partial(flux, guidance_embeds=True, use_dynamic_shifting=True),
        "trailing + angle",
        {"size": [16, 24]},
    ),
}


@pytest.mark.parametrize("name", TEXT)
def test_stock_text_pipelines_sample_the_same(tmp_path: Path, name: str) -> None:
    """At every number of steps, with the times that the model card lists; its code passes them."""
    kind, save, spacing, options = TEXT[name]
    save(tmp_path / "teacher")
    options |= {"prompts": PROMPTS}
    model = load(tmp_path / "teacher", **options)
    path = export(model, tmp_path / "export", spacing)
    card = (tmp_path / "export/README.md").read_text(encoding="utf-8")
    listed = {int(steps): call for steps, call in re.findall(r"^  - (\d+) steps: `(.*)`$", card, re.MULTILINE)}
    assert tuple(listed) == STEPS
    [snippet] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert listed[4] in snippet
    assert "num_inference_steps" not in snippet
    pipe = getattr(diffusers, kind).from_pretrained(tmp_path / "export")
    noise = noise_for(0, range(3), model.spec.sample_shape)
    size = {"height": 16, "width": 24} if "size" in options else {}
    scale = {"guidance_scale": 1.0}
    for steps, call in listed.items():
        argument, values = call.split("=")
        given: dict[str, Any] = {argument: [float(value) for value in values.strip("[]").split(", ")]}
        theirs = stock(pipe, noise, prompt=list(PROMPTS), **given, **size, **scale)
        assert pipe.num_timesteps == steps
        ours = own(model, noise, steps, [0, 1, 2])
        assert ours.std() > 0.05
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert_read_back(tmp_path / "export", path, **options)


CLASSES: dict[str, tuple[Any, str]] = {
    "ε": (ddim_scheduler(), "angle"),
    "v": (ddim_scheduler(prediction_type="v_prediction"), "trailing + angle"),
    "v, karras": (ddim_scheduler(prediction_type="v_prediction"), "karras"),
    "v, leading too": (ddim_scheduler(prediction_type="v_prediction"), "leading + angle"),
    "EDM": (EDMEulerScheduler(sigma_data=0.7), "angle"),
    "EDM, a blend": (EDMEulerScheduler(sigma_schedule="exponential"), "0.3 karras + 0.7 trailing"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_our_class_conditional_pipeline_has_its_times(tmp_path: Path, name: str) -> None:
    scheduler, spacing = CLASSES[name]
    torch.manual_seed(0)
    ClassConditionalPipeline(unet(num_class_embeds=5), scheduler).save_pretrained(tmp_path / "teacher")
    model = load(tmp_path / "teacher")
    path = export(model, tmp_path / "export", spacing)
    pipe = ClassConditionalPipeline.from_pretrained(tmp_path / "export", trust_remote_code=True)
    noise = noise_for(0, range(3), (3, 8, 8))
    for steps in STEPS:
        given = {} if steps == 4 else {"num_inference_steps": steps}
        ours = own(model, noise, steps, [0, 3, 2])
        theirs = stock(pipe, noise, class_labels=[0, 3, 2], **given)
        assert ours.std() > 0.05
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 if "EDM" in name else 1e-5)
    assert_read_back(tmp_path / "export", path)
    assert grid_of(load_model(tmp_path / "export"))["spacing"] == spacing
    # Another scheduler takes its own.
    pipe.scheduler = diffusers.DDIMScheduler()
    assert len(pipe([0], num_inference_steps=2, output_type="pt").images) == 1


def test_karras_is_said_by_edms_own_scheduler(tmp_path: Path) -> None:
    """So that a stock pipeline without times in its call samples it."""
    torch.manual_seed(0)
    ConsistencyModelPipeline(unet(), EDMEulerScheduler(sigma_schedule="exponential")).save_pretrained(tmp_path / "made")
    model = load(tmp_path / "made")
    for steps in STEPS:
        path = export(model, tmp_path / str(steps), "karras", steps)
        pipe = ConsistencyModelPipeline.from_pretrained(tmp_path / str(steps))
        noise = noise_for(0, range(3), (3, 8, 8))
        theirs = stock(pipe, noise, batch_size=3, num_inference_steps=steps)
        torch.testing.assert_close(own(model, noise, steps), theirs, rtol=0, atol=2e-5)
    assert_read_back(tmp_path / str(STEPS[-1]), path)


def test_an_export_that_is_distilled_again_has_its_first_shift() -> None:
    """What was written into the scheduler for one grid is no longer right for another."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    config = dict(scheduler.config) | {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    for spacing in ("angle", "trailing"):
        path = flow.read_path(config, "linspace").with_grid(spacing)
        once = config | dict(flow.make_scheduler(path, config, 4, "linspace").config)
        again = flow.read_path(once, "linspace").with_grid("linspace")
        twice = flow.make_scheduler(again, once, 5, "linspace")
        twice.set_timesteps(5)
        scheduler.set_timesteps(5)
        torch.testing.assert_close(twice.sigmas, scheduler.sigmas)
        assert "_distillkit" not in twice.config


def test_exports_that_are_distilled_again_lose_their_times() -> None:
    config = {"_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "v_prediction"}
    path, kind = table.read_path(config)
    once = table.make_scheduler(path.with_grid("angle"), kind, config, 4, "ddim")
    written = dict(once.config) | {"_class_name": type(once).__name__}
    again, _ = table.read_path(written)
    assert again.spacing == "angle"
    assert table.make_scheduler(again.with_grid("trailing"), kind, written, 3, "ddim").config.get("_distillkit") is None
    config = dict(EDMEulerScheduler(sigma_schedule="exponential").config)
    first = dict(edm.make_scheduler(edm.read_path(config).with_grid("angle"), config, 4).config)
    assert edm.read_path(first).spacing == "angle"
    plain = dict(edm.make_scheduler(edm.read_path(first).with_grid("linspace"), first, 4).config)
    assert "_distillkit" not in plain
    assert (plain["sigma_schedule"], plain["sigma_min"]) == ("exponential", pytest.approx(0.002))


# --- refused ---------------------------------------------------------------------------------------------------------


def unconditional(folder: Path) -> None:
    DDIMPipeline(pixel_unet(), ddim_scheduler()).save_pretrained(folder)


def latent(folder: Path) -> None:
    LDMPipeline(vq_autoencoder(), unet(), ddim_scheduler()).save_pretrained(folder)


def transformer(folder: Path) -> None:
    DiTPipeline(dit(), kl_autoencoder(), ddim_scheduler()).save_pretrained(folder)


def preconditioned(folder: Path) -> None:
    ConsistencyModelPipeline(unet(), EDMEulerScheduler()).save_pretrained(folder)


@pytest.mark.parametrize("spacing", ["angle", "trailing + linspace"])
@pytest.mark.parametrize("save", [unconditional, latent, transformer, preconditioned])
def test_check_refuses_what_a_stock_pipeline_cannot_be_given(
    tmp_path: Path, config: ConfigFile, save: Callable[[Path], None], spacing: str
) -> None:
    save(tmp_path / "teacher")
    text = DSDI.replace('type = "fashion"', f'type = "diffusers"\npath = "{tmp_path / "teacher"}"')
    with pytest.raises(ConfigError) as caught:
        read_config(config.write(text, ""), overrides=[f"grid.spacing={spacing}"])
    assert [*map(str, caught.value.mistakes)] == [
        f'grid.spacing: is "{spacing}", and the stock pipeline that this model is exported as cannot be given such '
        'times: its call takes none, and no scheduler\'s config in diffusers says them; set it to "trailing"'
    ]
    read_config(config.write(text, ""), overrides=["grid.spacing=leading"])


# --- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", OWN)
@pytest.mark.parametrize("preset", ["dsdi", "tsd", "pd", "luhman", "matching", "dsd-anchored"])
def test_sources_draw_from_the_grid(tmp_path: Path, preset: str, spacing: str) -> None:
    data = ['data.type="digits"'] if preset == "pd" else []
    few = [] if preset in ("luhman", "matching") else ["schedule.start=4"]
    parts = started(tmp_path, preset, 4, "source.batch=4", f"grid.spacing={spacing}", *data, *few)
    path, source = parts.student.path, parts.components.source
    assert path.spacing == spacing
    jumps = source.draw(generator(0, 0, "draw"))
    found = {*jumps.times.flatten().tolist()}
    assert found <= {*path.grid(4).tolist()}
    assert len(found) > 1


def test_a_run_samples_scores_and_exports_on_its_grid(tmp_path: Path) -> None:
    few = ("run.updates=2", "schedule.start=4", "source.batch=2", "evaluation.steps=[1, 2, 3]")
    found = distil(tmp_path, "dsd-anchored", *few, "evaluation.export_steps=2", "grid.spacing=trailing+angle")
    pipe = ClassConditionalPipeline.from_pretrained(found.folder / "pipeline", trust_remote_code=True)
    assert {steps: [*given] for steps, given in pipe.config.times.items()} == {key: ["timesteps"] for key in "123"}
    assert pipe.config.times["2"]["timesteps"][0] == 999
    assert grid_of(load_model(found.folder / "pipeline")) == {"spacing": "trailing + angle", "start": 999}
    card = (found.folder / "pipeline/README.md").read_text(encoding="utf-8")
    assert "exact at\n  1, 2, 3 steps with the times below\n- Times, which the scheduler has to be handed:\n" in card


def test_trajectories_are_cached_on_the_grid(tmp_path: Path) -> None:
    few = ("run.updates=2", "schedule.steps=4", "source.batch=2", "source.trajectories=4", "grid.spacing=angle")
    found = distil(tmp_path, "luhman-cached", *few, f'source.folder="{tmp_path / "cache"}"')
    [manifest] = (tmp_path / "cache").rglob("manifest.json")
    assert json.loads(manifest.read_text(encoding="utf-8"))["origin"]["times"] == [999, 463, 251, 83, -1]
    assert len(found.losses) == 2


def test_check_sees_that_karras_grids_begin_at_pure_noise(tmp_path: Path) -> None:
    """On a table of zero terminal SNR: the student's, unless they begin late. The teacher's begin where α is not 0."""
    options = ("run.updates=1", "model.scheduler.rescale_betas_zero_snr=true")
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, "any-step", *options, "grid.start=auto")
    assert str(caught.value).splitlines()[1:] == [
        '  grid.spacing: is "karras-8", and the model\'s noise path has no such grids; set it to "trailing" or '
        '"angle", or grid.start to "late"'
    ]
    settings(tmp_path, "any-step", *options)
    settings(tmp_path, "any-step", *options, "grid.start=auto", "grid.spacing=angle")
