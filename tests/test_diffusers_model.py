"""Networks that diffusers saved, in every layout it has for them, and folders that are not what they should be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner
from diffusers import DDPMPipeline, DDPMScheduler
from distillkit_diffusers.families.unet import Pixel
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.model import DiffusersModel
from helpers.digits import MODEL, PLAIN, TEACHER, distil, settings
from helpers.networks import (
    ddim_pipeline,
    ddpm_pipeline,
    half_precision,
    oblong,
    pixel_unet,
    pndm_class_conditional,
    sharded,
    tables,
)

from distillkit.cli.group import cli
from distillkit.errors import ConfigError, DistillkitError

DSDI = ("run.updates=3", "schedule.start=4", "source.batch=2", "evaluation.steps=[2]")


def load(path: Path, **options: Any) -> DiffusersModel:
    model = DiffusersModel(DiffusersModel.Options(path=path, **options))
    model.load()
    return model


# --- what distils ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "save", [ddpm_pipeline, ddim_pipeline, pndm_class_conditional, half_precision, sharded, oblong]
)
def test_layouts_that_diffusers_writes(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "teacher")
    saved = pixel_unet(**json.loads((tmp_path / "teacher/unet/config.json").read_text(encoding="utf-8")))
    model = load(tmp_path / "teacher")
    assert all(weight.dtype == torch.float32 for weight in model.network.parameters())
    tolerance = 1e-3 if save is half_precision else 0
    for name, weight in saved.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], weight, rtol=tolerance, atol=tolerance)
    before = model.network.state_dict()
    after = distil(tmp_path, "dsdi", *DSDI, tables=tables(tmp_path / "teacher")).weights()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_bare_network_with_a_schedule_of_the_config(tmp_path: Path) -> None:
    pixel_unet().save_pretrained(tmp_path / "teacher")
    schedule = 'scheduler = { beta_schedule = "scaled_linear", beta_start = 0.0015, beta_end = 0.0195 }'
    run = distil(tmp_path, "dsdi", *DSDI, tables=tables(tmp_path / "teacher", schedule))
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square()
    model = load(run.folder / "pipeline")
    # The export is cut at the start time that "auto" chose for an ε-network.
    assert len(model.spec.path.alphas_cumprod) == 832
    torch.testing.assert_close(model.spec.path.alphas_cumprod, (1 - betas).cumprod(0)[:832], rtol=1e-4, atol=1e-6)


def test_schedule_of_the_config_lies_over_the_folders(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    assert load(tmp_path / "teacher").spec.prediction == "epsilon"
    assert load(tmp_path / "teacher", scheduler={"prediction_type": "sample"}).spec.prediction == "sample"


def test_full_weights_before_half_ones(tmp_path: Path) -> None:
    half_precision(tmp_path)
    pixel_unet().save_pretrained(tmp_path / "unet")
    weights = load(tmp_path).network.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in pixel_unet().state_dict().items())


def test_the_last_class_may_be_the_null_class(tmp_path: Path) -> None:
    pndm_class_conditional(tmp_path)
    plain, guided = load(tmp_path), load(tmp_path, null_class=9)
    assert (plain.spec.classes, plain.spec.supports_guidance) == (10, False)
    assert (guided.spec.classes, guided.spec.supports_guidance) == (9, True)
    condition = guided.condition(torch.tensor([3, -1]), 2, torch.tensor([2.0, 2.0]))
    assert condition.inputs["class_labels"].tolist() == [3, 9]
    assert condition.null is not None
    assert condition.null["class_labels"].tolist() == [9, 9]


def test_an_exported_pipeline_knows_its_null_class() -> None:
    model = load(TEACHER)
    assert (model.spec.classes, model.spec.supports_guidance) == (10, True)


# --- what does not ---------------------------------------------------------------------------------------------------


def mistakes(folder: Path, text: str, *assignments: str) -> str:
    """The mistakes of a config that cannot run: found before anything is written."""
    with pytest.raises(DistillkitError) as caught:
        distil(folder, "dsdi", *DSDI, *assignments, tables=text)
    assert not (folder / "run").exists()
    if isinstance(caught.value, ConfigError):
        return "\n".join(map(str, caught.value.mistakes))
    return str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    found = mistakes(tmp_path, tables(tmp_path / "no"))
    assert found == f"model.path: there is no folder {tmp_path}/no; give a local folder that diffusers saved"


def test_no_pipeline(tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    expected = (
        f"{tmp_path}/teacher is not a diffusers pipeline: no model_index.json, no unet/config.json, and no config.json "
        "of its own"
    )
    assert mistakes(tmp_path, tables(tmp_path / "teacher")) == f"model.path: {expected}"


def test_another_network(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    file = tmp_path / "teacher/unet/config.json"
    file.write_text('{"_class_name": "UNet2DConditionModel"}', encoding="utf-8")
    found = mistakes(tmp_path, tables(tmp_path / "teacher"))
    assert (
        found == f"model.path: {file}: the network is a UNet2DConditionModel; supported: UNet2DModel, GuidedUNet2DModel"
    )


def test_config_that_is_no_json(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    file = tmp_path / "teacher/unet/config.json"
    file.write_text("{", encoding="utf-8")
    found = mistakes(tmp_path, tables(tmp_path / "teacher"))
    assert found.startswith(f"model.path: {file}: cannot be read as JSON (Expecting property name")


def test_no_safetensors(tmp_path: Path) -> None:
    DDPMPipeline(pixel_unet(), DDPMScheduler(clip_sample=False)).save_pretrained(
        tmp_path / "teacher", safe_serialization=False
    )
    unet = tmp_path / "teacher/unet"
    assert mistakes(tmp_path, tables(tmp_path / "teacher")) == (
        f"model.path: {unet} has its weights as a pickle (diffusion_pytorch_model.bin), which may run code when it is "
        "opened; expected safetensors: save the pipeline anew, with diffusers' save_pretrained"
    )
    (unet / "diffusion_pytorch_model.bin").unlink()
    expected = f"{unet} has no weights in safetensors format (diffusion_pytorch_model.safetensors)"
    assert mistakes(tmp_path, tables(tmp_path / "teacher")) == f"model.path: {expected}"


@pytest.mark.parametrize(
    ("name", "what"),
    [("../../secret.safetensors", "which is not a file of its own folder"), ("no.safetensors", "which is not there")],
)
def test_index_of_shards_that_names_other_files(tmp_path: Path, name: str, what: str) -> None:
    sharded(tmp_path / "teacher")
    index = tmp_path / "teacher/unet/diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content["weight_map"]["conv_in.weight"] = name
    index.write_text(json.dumps(content), encoding="utf-8")
    assert mistakes(tmp_path, tables(tmp_path / "teacher")) == f"model.path: {index}: names '{name}', {what}"


def test_pipeline_of_another_class(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    index = tmp_path / "teacher/model_index.json"
    content = json.loads(index.read_text(encoding="utf-8")) | {"_class_name": "MusicLDMPipeline"}
    index.write_text(json.dumps(content), encoding="utf-8")
    found = mistakes(tmp_path, tables(tmp_path / "teacher"))
    assert found.startswith(
        f"model.path: {index}: the pipeline is a MusicLDMPipeline; supported: DDPMPipeline, DDIMPipeline, "
    )
    content["_class_name"] = "DDIMPipeline"
    index.write_text(json.dumps(content), encoding="utf-8")
    assert mistakes(tmp_path, tables(tmp_path / "teacher", "network = { sample_size = 8 }")).startswith(
        "model.path: name"
    )


def test_options_of_another_family() -> None:
    class Plain(Pixel):
        takes: ClassVar[frozenset[str]] = frozenset()

    family = Plain(DiffusersModel.Options(path=TEACHER, null_class=10), PipelineFolder(TEACHER))
    assert [str(mistake) for mistake in family.check()] == [
        "null_class: means nothing to ClassConditionalPipeline; leave it out"
    ]


def test_weights_cut_short(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    file = tmp_path / "teacher/unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    found = mistakes(tmp_path, tables(tmp_path / "teacher"))
    assert found.startswith(f"model.path: {file}: cannot be read as safetensors (")


def test_no_scheduler(tmp_path: Path) -> None:
    pixel_unet().save_pretrained(tmp_path / "teacher")
    expected = (
        f"{tmp_path}/teacher has no scheduler/scheduler_config.json; give the noise schedule in [model.scheduler]"
    )
    assert mistakes(tmp_path, tables(tmp_path / "teacher")) == f"model.path: {expected}"


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ('prediction_type = "flow"', '.prediction_type: is "flow"; expected "epsilon", "v_prediction" or "sample"'),
        (
            "rescale_betas_zero_snr = true",
            ".rescale_betas_zero_snr: is true; expected false, as the last time would be pure noise, where an "
            "ε-prediction says nothing about x; use a v- or x-prediction network, or a schedule without it",
        ),
        (
            "beta_end = 1",
            ": its betas make the last time pure noise, where an ε-prediction says nothing about x; use a v- or "
            "x-prediction network, or smaller betas",
        ),
    ],
)
def test_noise_schedules_that_do_not_work(tmp_path: Path, schedule: str, message: str) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    found = mistakes(tmp_path, tables(tmp_path / "teacher", f"scheduler = {{ {schedule} }}"))
    assert found == f"model.scheduler{message}"


def test_scheduler_without_betas(tmp_path: Path) -> None:
    pixel_unet().save_pretrained(tmp_path / "teacher/unet")
    (tmp_path / "teacher/scheduler").mkdir()
    config = '{"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348}'
    (tmp_path / "teacher/scheduler/scheduler_config.json").write_text(config, encoding="utf-8")
    found = mistakes(tmp_path, tables(tmp_path / "teacher"))
    assert found.startswith("model.scheduler: is a ScoreSdeVeScheduler; expected one of DDIMScheduler, ")


def test_networks_of_another_kind(tmp_path: Path) -> None:
    DDPMPipeline(pixel_unet(out_channels=2), DDPMScheduler(clip_sample=False)).save_pretrained(tmp_path / "a")
    assert mistakes(tmp_path, tables(tmp_path / "a")) == (
        "model: the network makes 2 channels of 1; expected as many (networks that also predict a variance are not "
        "supported)"
    )
    DDPMPipeline(pixel_unet(class_embed_type="timestep"), DDPMScheduler(clip_sample=False)).save_pretrained(
        tmp_path / "b"
    )
    assert mistakes(tmp_path, tables(tmp_path / "b")) == (
        "model: the network's class_embed_type is 'timestep'; supported: none, with or without num_class_embeds"
    )


@pytest.mark.parametrize(
    ("save", "has"),
    [(ddpm_pipeline, "the network has no classes"), (pndm_class_conditional, "expected the network's last class, 9")],
)
def test_null_class_that_is_not_the_last(tmp_path: Path, save: Any, has: str) -> None:
    save(tmp_path / "teacher")
    found = mistakes(tmp_path, tables(tmp_path / "teacher", "null_class = 10"))
    assert found == f"model.null_class: 10; {has}"


def test_guidance_without_a_null_class(tmp_path: Path) -> None:
    pndm_class_conditional(tmp_path / "teacher")
    text = tables(tmp_path / "teacher")
    must = "must be 1: the model has no null condition for guidance to compare with"
    found = mistakes(tmp_path, text, "source.guidance=[1.0, 3.0]", "evaluation.guidance=2.0")
    assert found == f"source.guidance: {must}\nevaluation.guidance: {must}"


def test_grid_that_the_path_does_not_have(tmp_path: Path) -> None:
    asked = ("evaluation.steps=[2, 1001]", "evaluation.export_steps=702", "schedule.start=1024")
    found = mistakes(tmp_path, MODEL + PLAIN, "grid.start=700", *asked)
    assert found.splitlines() == [
        f"{key}: a grid of {steps} steps needs 1 to 701 steps: the noise path has 701 times"
        for key, steps in (("evaluation.steps", 1001), ("evaluation.export_steps", 702), ("schedule", 1024))
    ]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:7", '\'cuda:7\' is not there: torch sees {count} CUDA device{s}; use "auto" or "cpu"'),
        ("abacus", "'abacus' is no device; expected auto, cpu, cuda or cuda:N"),
        ("meta", "expected auto, cpu, cuda or cuda:N (got 'meta')"),
    ],
)
def test_device_that_is_not_there(tmp_path: Path, device: str, message: str) -> None:
    count = torch.cuda.device_count()
    found = mistakes(tmp_path, MODEL + PLAIN, f'engine.device="{device}"')
    assert found == "engine.device: " + message.format(count=count, s="s" * (count != 1))


def test_folder_that_holds_something(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "letter.txt").write_text("Dear", encoding="utf-8")
    wanted = settings(tmp_path, "dsdi", *DSDI)
    result = CliRunner().invoke(cli, ["run", wanted.origin, "--set", "run.updates=3", "--output", str(run)])
    assert (result.exit_code, result.stderr) == (
        2,
        f"{run}: already holds something that is not a run; nothing was overwritten. Give another folder with "
        "--output, another run.name\n",
    )
    assert [file.name for file in run.iterdir()] == ["letter.txt"]


def test_mistakes_exit_with_2(tmp_path: Path) -> None:
    shutil.copytree(TEACHER, tmp_path / "teacher")
    (tmp_path / "mine.toml").write_text('preset = "dsdi"\n' + tables(tmp_path / "teacher", "null_class = 11"))
    arguments = ["run", str(tmp_path / "mine.toml"), "--set", "run.updates=1", "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, result.stderr) == (
        2,
        "model.null_class: 11; expected the network's last class, 10\n",
    )


def test_sample_and_evaluate_take_options_of_the_model(tmp_path: Path) -> None:
    """A DDPM folder whose scheduler clips, as many do."""
    DDPMPipeline(pixel_unet(), DDPMScheduler(clip_sample=True)).save_pretrained(tmp_path / "ddpm")
    command = ["sample", str(tmp_path / "ddpm"), "--steps", "2", "--count", "1", "--output", str(tmp_path / "grid.png")]
    result = CliRunner().invoke(cli, command)
    assert (result.exit_code, (tmp_path / "grid.png").exists()) == (2, False)
    assert "model.scheduler.clip_sample=false" in result.stderr
    result = CliRunner().invoke(cli, [*command, "--set", "model.scheduler.clip_sample=false"])
    assert (result.exit_code, (tmp_path / "grid.png").exists()) == (0, True), result.stderr
    result = CliRunner().invoke(cli, ["evaluate", str(tmp_path / "ddpm"), "--set", "model.schedule.clip_sample=false"])
    assert result.exit_code == 2
    assert "model.schedule: unknown option of 'diffusers'" in result.stderr
