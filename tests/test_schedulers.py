"""Every field of every supported scheduler's config is used, refused or harmless, and diffusers agrees on the rest."""

from __future__ import annotations

import importlib
import json
import sys
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, LCMScheduler
from distillkit_diffusers import schedulers
from distillkit_diffusers.families import edm, flow, table
from distillkit_diffusers.model import DiffusersModel
from distillkit_diffusers.scheduler_fields import BETA_SCHEDULES, CLIPS_BY_DEFAULT, EDMS, FLOWS, IN_EVERY_CLASS, TABLES
from distillkit_diffusers.scheduler_values import DEFAULTS
from helpers.networks import ddim_pipeline, pixel_unet
from helpers.pipelines import own, stock
from helpers.text_pipelines import stable_diffusion

from distillkit.errors import DistillkitError, GridError
from distillkit.sampling import noise_for

# Some of diffusers' schedulers have not kept up with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

FIELDS = {name: (fields, group) for group in (TABLES, FLOWS, EDMS) for fields in group for name in fields.classes}


@pytest.fixture
def torchsde(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not installed; diffusers has DPMSolverSDEScheduler only with it."""
    monkeypatch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))
    made = importlib.import_module("diffusers.schedulers.scheduling_dpmsolver_sde").DPMSolverSDEScheduler
    monkeypatch.setattr(diffusers, "DPMSolverSDEScheduler", made)


def defaults(name: str) -> dict[str, Any]:
    """The fields of a class of diffusers', and their defaults."""
    parameters = list(signature(getattr(diffusers, name).__init__).parameters.items())[1:]
    return {key: parameter.default for key, parameter in parameters}


@pytest.mark.usefixtures("torchsde")
@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_in_one_group(name: str) -> None:
    fields, _ = FIELDS[name]
    for key in defaults(name):
        groups = [key in fields.used, key in fields.refused, key in fields.harmless]
        assert groups.count(True) == 1, key


@pytest.mark.usefixtures("torchsde")
def test_every_entry_is_a_field() -> None:
    for group in (TABLES, FLOWS, EDMS):
        known = {key for fields in group for name in fields.classes for key in defaults(name)}
        assert {key for fields in group for key in (*fields.used, *fields.refused, *fields.harmless)} == known
    assert all(IN_EVERY_CLASS - {"_class_name"} <= {*defaults(name)} for one in TABLES for name in one.classes)
    clip = [name for name in FIELDS if defaults(name).get("clip_sample") is True]
    assert sorted(clip) == sorted(CLIPS_BY_DEFAULT)


def test_all_schedulers_that_diffusers_calls_compatible_are_read() -> None:
    """KDPM2 and the like are; EDM's is of another family, and DPMSolverSDEScheduler comes with torchsde."""
    names = {scheduler.__name__ for scheduler in DDIMScheduler().compatibles} - {"EDMEulerScheduler"}
    assert names <= {name for fields in TABLES for name in fields.classes}


# --- refused ----------------------------------------------------------------------------------------------------------


def cases(kind: str) -> list[tuple[str, str]]:
    """Every class, and each of its fields in a group."""
    return [
        (name, key)
        for name, (fields, _) in FIELDS.items()
        if name != "DPMSolverSDEScheduler"
        for key in sorted(defaults(name))
        if key in getattr(fields, kind)
    ]


WRONG = {"timestep_type": "continuous", "timestep_scaling": 5.0}
"""Values that are refused; of all other fields, true."""


@pytest.mark.parametrize(("name", "key"), cases("refused"))
def test_a_refused_field_is_named(name: str, key: str) -> None:
    fields, group = FIELDS[name]
    config = {"_class_name": name} | {field: value[0][0] for field, value in fields.refused.items()}
    assert [*schedulers.check(config, {}, group)] == []
    [mistake] = schedulers.check(config | {key: WRONG.get(key, True)}, {}, group)
    assert mistake.key == f"scheduler.{key}"
    assert mistake.message.startswith(f"is {'true' if key not in WRONG else json_of(WRONG[key])}: ")
    assert mistake.message.endswith(f": --set model.scheduler.{key}={json_of(fields.refused[key][0][0])}")


def json_of(value: Any) -> str:
    return {False: "false", "discrete": '"discrete"', "continuous": '"continuous"'}.get(value, str(value))


def test_a_field_that_its_class_lacks_is_not_refused() -> None:
    """diffusers ignores it: Stable Diffusion's own PNDMScheduler has a clip_sample."""
    assert [*schedulers.check({"_class_name": "PNDMScheduler", "clip_sample": True}, {}, TABLES)] == []


def test_clipping_by_default_is_refused(tmp_path: Path) -> None:
    """In a config that leaves the field out, too; without a class it is a noise schedule alone."""
    assert [*schedulers.check({"beta_end": 0.02}, {}, TABLES)] == []
    diffusers.DDPMPipeline(pixel_unet(), DDPMScheduler()).save_pretrained(tmp_path)
    for content in ((tmp_path / "scheduler/scheduler_config.json").read_text(), '{"_class_name": "DDIMScheduler"}'):
        (tmp_path / "scheduler/scheduler_config.json").write_text(content)
        found = [str(mistake) for mistake in DiffusersModel(DiffusersModel.Options(path=tmp_path)).check()]
        assert found == [
            "scheduler.clip_sample: is true: the pipeline changes x̂ at every step, which distillkit does not; to use "
            "the network without it: --set model.scheduler.clip_sample=false"
        ]
    options = DiffusersModel.Options(path=tmp_path, scheduler={"clip_sample": False})
    assert [*DiffusersModel(options).check()] == []


def test_fields_and_classes_that_are_not_known(tmp_path: Path) -> None:
    ddim_pipeline(tmp_path)
    for given, message in (
        ({"beta_strat": 0.1}, "scheduler.beta_strat: is no field of a DDIMScheduler; leave it out"),
        # Fields of other classes.
        ({"timestep_type": "continuous"}, "scheduler.timestep_type: is no field of a DDIMScheduler; leave it out"),
        ({"solver_order": 3}, "scheduler.solver_order: is no field of a DDIMScheduler; leave it out"),
        ({"use_dynamic_shifting": True}, "scheduler.use_dynamic_shifting: is no field of a DDIMScheduler; leave"),
        ({"_class_name": "CogVideoXDDIMScheduler"}, "scheduler: is a CogVideoXDDIMScheduler; expected one of DDIM"),
    ):
        [mistake] = DiffusersModel(DiffusersModel.Options(path=tmp_path, scheduler=given)).check()
        assert str(mistake).startswith(message)


def test_a_class_whose_package_is_missing_says_nothing_about_its_fields() -> None:
    given = {"_class_name": "DPMSolverSDEScheduler", "use_karras_sigmas": True}
    assert [*schedulers.check(given, given, TABLES)] == []
    [mistake] = schedulers.check(given, given | {"beta_strat": 0.1}, TABLES)
    assert mistake.key == "scheduler.beta_strat"


# --- values -----------------------------------------------------------------------------------------------------------

ZEROES = {"num_train_timesteps", "shift", "rho", "sigma_data", "sigma_min", "sigma_max", "original_inference_steps"}
"""Fields that are not 0."""
WHOLE = {"num_train_timesteps", "original_inference_steps", "steps_offset"}
NEEDED = {"base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"}
"""Fields whose values count only if the shift is dynamic."""


@pytest.mark.parametrize(("name", "key"), cases("used"))
def test_wrong_values_are_named(name: str, key: str) -> None:
    fields, group = FIELDS[name]
    config = {"_class_name": name} | {field: value[0][0] for field, value in fields.refused.items()}
    config |= {"use_dynamic_shifting": True} if key in NEEDED else {}
    config |= {"timestep_spacing": "leading"} if key == "steps_offset" else {}
    assert [*schedulers.check(config | {key: defaults(name)[key]}, {}, group)] == []
    wrong: list[Any] = ["no such", -1, float("nan"), 10**400, [2, "a"], {"a": 1}]
    wrong += [0] * (key in ZEROES) + [2.5] * (key in WHOLE) + [True] * (not isinstance(defaults(name)[key], bool))
    for value in wrong:
        [mistake] = schedulers.check(config | {key: value}, {key: value}, group)
        assert (mistake.key, "; expected " in mistake.message) == (f"scheduler.{key}", True), value


@pytest.mark.parametrize("name", [name for fields in TABLES for name in fields.classes if "SDE" not in name])
@pytest.mark.parametrize("schedule", [*BETA_SCHEDULES, "laplace", "sigmoid", "exp"])
def test_beta_schedules_are_those_that_diffusers_takes(name: str, schedule: str) -> None:
    fields, _ = FIELDS[name]
    try:
        getattr(diffusers, name)(beta_schedule=schedule)
        taken = True
    except NotImplementedError:
        taken = False
    assert (fields.used["beta_schedule"](schedule, {}) is None) == taken


@pytest.mark.usefixtures("torchsde")
@pytest.mark.parametrize("name", FIELDS)
def test_defaults_that_rules_compare_with(name: str) -> None:
    fields, _ = FIELDS[name]
    known = {key: value for key, value in defaults(name).items() if key in DEFAULTS and key in fields.used}
    if name == "DPMSolverMultistepScheduler":
        assert known.pop("timestep_spacing") == "linspace"  # which has no offset
    assert known == {key: DEFAULTS[key] for key in known}


SPACED = "a whole number from 0 to 999, the noisiest time"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"beta_schedule": "sigmoid"},
            'beta_schedule: is "sigmoid"; expected "linear", "scaled_linear" or "squaredcos_cap_v2"',
        ),
        ({"timestep_spacing": "leading", "steps_offset": -3}, f"steps_offset: is -3; expected {SPACED}"),
        ({"timestep_spacing": "leading", "steps_offset": 1000}, f"steps_offset: is 1000; expected {SPACED}"),
        ({"timestep_spacing": "leading", "steps_offset": 999}, None),
        ({"timestep_spacing": "trailing", "steps_offset": -3}, None),
        ({"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}, None),
        (
            {"_class_name": "DDPMScheduler", "beta_schedule": "sigmoid", "beta_end": 2},
            "beta_end: is 2; expected a number from 0 to 1",
        ),
        (
            {"trained_betas": [0.1, 0.2]},
            "trained_betas: is [0.1, 0.2]; expected 1000 numbers, one for each time (got 2)",
        ),
        ({"trained_betas": [0.1, 0.2], "num_train_timesteps": 2}, None),
        (
            {"trained_betas": [0.1] * 30, "num_train_timesteps": 31},
            f"trained_betas: is [{'0.1, ' * 11}0…; expected 31 numbers, one for each time (got 30)",
        ),
        (
            {"_class_name": "LCMScheduler", "original_inference_steps": 1001},
            "original_inference_steps: is 1001; expected a whole number from 1 to 1000, the times",
        ),
        (
            {"_class_name": "LCMScheduler", "num_train_timesteps": 10},
            "original_inference_steps: is 50 by default; expected a whole number from 1 to 10, the times",
        ),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 81}, "sigma_max: is 80.0 by default; expected a number abo"),
        ({"_class_name": "EDMEulerScheduler", "sigma_min": 80}, None),
        # diffusers ignores it, as PNDMScheduler has no such field; given by the config, that is a mistake.
        (
            {"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": True},
            "rescale_betas_zero_snr: is no field of a P",
        ),
    ],
)
def test_values_that_are_not_taken(tmp_path: Path, given: dict[str, Any], message: str | None) -> None:
    ddim_pipeline(tmp_path)
    if given.keys().isdisjoint({"_class_name", "beta_schedule"}):
        given = given | {"clip_sample": False}
    found = [str(mistake) for mistake in DiffusersModel(DiffusersModel.Options(path=tmp_path, scheduler=given)).check()]
    assert [one[: len(f"scheduler.{message}")] for one in found] == (
        [] if message is None else [f"scheduler.{message}"]
    )


def test_a_wrong_value_of_the_folder_is_named_with_its_file(tmp_path: Path) -> None:
    ddim_pipeline(tmp_path)
    file = tmp_path / "scheduler/scheduler_config.json"
    config = json.loads(file.read_text(encoding="utf-8")) | {"prediction_type": "noise", "num_train_timesteps": "1000"}
    file.write_text(json.dumps(config), encoding="utf-8")
    assert [str(mistake) for mistake in DiffusersModel(DiffusersModel.Options(path=tmp_path)).check()] == [
        f'scheduler.num_train_timesteps: is "1000" in {file}; expected a whole number from 1 to 1000000',
        f'scheduler.prediction_type: is "noise" in {file}; expected "epsilon", "v_prediction" or "sample"',
    ]
    given = {"prediction_type": "epsilon", "num_train_timesteps": 1000}
    assert [*DiffusersModel(DiffusersModel.Options(path=tmp_path, scheduler=given)).check()] == []


def test_a_field_that_its_class_lacks_may_have_any_value() -> None:
    config = {"_class_name": "PNDMScheduler", "rescale_betas_zero_snr": True}
    assert [*schedulers.check(config, {}, TABLES)] == []


def test_a_class_whose_package_is_missing() -> None:
    with pytest.raises(DistillkitError) as caught:
        table.read_path({"_class_name": "DPMSolverSDEScheduler"})
    assert str(caught.value).startswith(
        "model.scheduler: diffusers does not take this DPMSolverSDEScheduler: DPMSolverSDEScheduler requires the "
        "torchsde library but it was not found in your environment."
    )


# --- used and harmless ------------------------------------------------------------------------------------------------

BASES: dict[str, dict[str, Any]] = {
    "steps_offset": {"timestep_spacing": "leading"},
    "timestep_spacing": {"timestep_spacing": "trailing"},
    "rescale_betas_zero_snr": {"prediction_type": "v_prediction"},
    "trained_betas": {"num_train_timesteps": 100},
    **{
        key: {"use_dynamic_shifting": True}
        for key in ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")
    },
}
"""What has to be set for a field to have an effect."""

OTHERS: dict[str, Any] = {
    "num_train_timesteps": 500,
    "beta_start": 0.002,
    "beta_end": 0.03,
    "beta_schedule": "squaredcos_cap_v2",
    "trained_betas": [i / 200 for i in range(1, 101)],
    "prediction_type": "v_prediction",
    "timestep_spacing": "leading",
    "steps_offset": 3,
    "original_inference_steps": 20,
    "time_shift_type": "linear",
    "base_image_seq_len": 200,
    "max_image_seq_len": 5000,
    "sigma_schedule": "exponential",
    "algorithm_type": "sde-dpmsolver++",
    "solver_type": "heun",
    "final_sigmas_type": "sigma_min",
    "variance_type": "learned_range",
    "interpolation_type": "log_linear",
    "shift_terminal": 0.1,
    "noise_sampler_seed": 4,
    "disable_corrector": [0],
}
"""Other values than the defaults; of all other fields, the default turned round."""


def read(name: str, config: dict[str, Any], key: str) -> list[Any]:
    """What a config says to distillkit: of the noise path, its grids, and the network's inputs and output."""
    fields, group = FIELDS[name]
    config = {"_class_name": name} | {field: value[0][0] for field, value in fields.refused.items()} | config
    if group is EDMS:
        path: Any = edm.read_path(config)
        z = torch.full((1, 1, 1, 1), 0.3)
        _, sigma = path.alpha_sigma(torch.tensor([400.0]))
        said = edm.preconditioned(lambda z, t, return_dict: (z + t,), z, sigma, config, {})
        return [path.times, path.grid(4).tolist(), path.alpha_sigma(path.grid(4))[1].tolist(), said.item()]
    if group is FLOWS:
        path = flow.read_path(config, "linspace", 1024)
        return [path.times, path.grid(4).tolist()]
    path, prediction = table.read_path(config)
    return [path.alphas_cumprod.tolist(), prediction, path.grid(4).tolist(), path.consistency_times(4).tolist()]


def changed(name: str, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A config, and the same with another value of a field."""
    base = BASES.get(key, {})
    if key == "timestep_spacing" and name == "DPMSolverMultistepScheduler":
        return base, {"timestep_spacing": "linspace"}
    default = defaults(name)[key]
    other = OTHERS.get(key)
    if other is None:
        other = (not default) if isinstance(default, bool) else (default or 0) + 1
    return base, base | {key: other}


@pytest.mark.parametrize(("name", "key"), cases("used"))
def test_a_used_field_has_an_effect(name: str, key: str) -> None:
    before, after = changed(name, key)
    assert read(name, before, key) != read(name, after, key)


@pytest.mark.parametrize(("name", "key"), cases("harmless"))
def test_a_harmless_field_has_none(name: str, key: str) -> None:
    before, after = changed(name, key)
    assert read(name, before, key) == read(name, after, key)


@pytest.mark.parametrize("name", [name for fields in TABLES for name in fields.classes if "SDE" not in name])
def test_a_class_keeps_its_own_defaults(name: str) -> None:
    path, _ = table.read_path({"_class_name": name})
    assert path.alphas_cumprod.float().equal(getattr(diffusers, name)().alphas_cumprod)


# --- against diffusers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", [50, 30, 64, 4, 1000])
def test_consistency_times_are_those_of_a_stock_lcm(origin: int) -> None:
    config = {"_class_name": "LCMScheduler", "original_inference_steps": origin}
    path, _ = table.read_path(config)
    scheduler = LCMScheduler(original_inference_steps=origin)
    exported = table.make_scheduler(path, "epsilon", config, 4, "consistency")
    for steps in range(1, min(origin, 60) + 1):
        scheduler.set_timesteps(steps)
        exported.set_timesteps(steps)
        assert path.consistency_times(steps).tolist() == scheduler.timesteps.tolist() == exported.timesteps.tolist()
    # evaluate asks for the grid that the pipeline has.
    assert path.with_grid(path.spacing, path.start).consistency_times(4).equal(path.consistency_times(4))
    if origin == 50:
        assert path.consistency_times(4).tolist() == [999, 759, 499, 259]
        with pytest.raises(GridError, match=r"^51 steps are more than the scheduler's original_inference_steps, 50$"):
            path.consistency_times(51)
        assert path.with_grid("trailing", 499).consistency_times(2).tolist() == [499, 249]


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_leading_grids_are_a_ddims(tmp_path: Path, offset: int) -> None:
    """And so are its samples, of the folder and of its export."""
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=offset, prediction_type="v_prediction")
    diffusers.DDIMPipeline(pixel_unet(), scheduler).save_pretrained(tmp_path)
    model = DiffusersModel(DiffusersModel.Options(path=tmp_path))
    model.load()
    model.network.eval()
    noise = noise_for(0, range(2), (1, 8, 8))
    theirs = stock(diffusers.DDIMPipeline.from_pretrained(tmp_path), noise, batch_size=2, num_inference_steps=5)
    torch.testing.assert_close(own(model, noise, 5), theirs, rtol=0, atol=1e-5)
    path: Any = model.spec.path
    exported = table.make_scheduler(path, "v_prediction", dict(scheduler.config), 5, "ddim")
    for made in (scheduler, exported):
        made.set_timesteps(5)
        assert made.timesteps.tolist() == path.grid(5)[:-1].tolist()


def test_fields_that_stable_diffusion_overwrites_are_not_given(tmp_path: Path) -> None:
    stable_diffusion(tmp_path)
    given = {"steps_offset": 0, "clip_sample": True}
    options = DiffusersModel.Options(path=tmp_path, prompts=("a cat",), scheduler=given)
    assert [str(mistake) for mistake in DiffusersModel(options).check()] == [
        "scheduler.clip_sample: is true, which a StableDiffusionPipeline overwrites with false; leave it out",
        "scheduler.steps_offset: is 0, which a StableDiffusionPipeline overwrites with 1; leave it out",
    ]
    given = {"steps_offset": 1, "clip_sample": False}
    options = DiffusersModel.Options(path=tmp_path, prompts=("a cat",), scheduler=given)
    assert [*DiffusersModel(options).check()] == []


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_stable_diffusion_overwrites_two_fields(tmp_path: Path) -> None:
    stable_diffusion(tmp_path, timestep_spacing="leading", steps_offset=0, clip_sample=True)
    model = DiffusersModel(DiffusersModel.Options(path=tmp_path, prompts=("a cat", "the sea")))
    assert [*model.check()] == []
    model.load()
    model.network.eval()
    noise = noise_for(0, range(2), model.spec.sample_shape)
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    asked = {"prompt": ["a cat", "the sea"], "guidance_scale": 1.0, "num_inference_steps": 4}
    torch.testing.assert_close(own(model, noise, 4, [0, 1]), stock(pipe, noise, **asked), rtol=0, atol=1e-4)


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize(
    ("name", "schedule"), [("DDPMScheduler", "sigmoid"), ("DDPMScheduler", "laplace"), ("HeunDiscreteScheduler", "exp")]
)
@pytest.mark.parametrize("steps", [4, 7])
def test_betas_that_few_schedulers_know(name: str, schedule: str, zero_snr: bool, steps: int) -> None:
    """An export has them as numbers, bit for bit; DDIM's scheduler at 4 steps, DPM-Solver's at 7.

    But DPM-Solver's makes NaN of α = 0.
    """
    config = {"beta_schedule": schedule, "prediction_type": "v_prediction"}
    if zero_snr and name == "DDPMScheduler":
        config |= {"rescale_betas_zero_snr": True}
    theirs = getattr(diffusers, name)(**config).alphas_cumprod
    path, kind = table.read_path(config | {"_class_name": name})
    assert path.alphas_cumprod.float().equal(theirs)
    exported = table.make_scheduler(path, kind, config | {"_class_name": name}, steps, "ddim")
    again = type(exported).from_config(dict(exported.config))
    read = table.read_path(dict(again.config) | {"_class_name": type(again).__name__})[0].alphas_cumprod.float()
    last = len(theirs) - (steps == 7 and theirs[-1].item() == 0)
    for bars in (again.alphas_cumprod, read):
        assert bars[:last].equal(theirs[:last])
        assert (bars[last:] > 0).all()
        assert (bars[last:] < 1e-8).all()
