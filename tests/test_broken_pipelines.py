"""Folders of pipelines whose parts are broken: `check` says so, in one sentence, before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from distillkit_diffusers.model import DiffusersModel
from helpers.networks import ddpm_pipeline, dit, pixel_unet, tables
from helpers.pipelines import load
from helpers.text_pipelines import PROMPTS, flux, stable_diffusion

from distillkit.cli.group import cli
from distillkit.errors import DistillkitError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "teacher"
    stable_diffusion(folder)
    return folder


@pytest.fixture
def teacher(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "teacher"))


def mistakes(folder: Path, **options: Any) -> list[str]:
    model = DiffusersModel(DiffusersModel.Options(path=folder, **{"prompts": PROMPTS} | options))
    return [str(mistake).replace(f"{folder}/", "") for mistake in model.check()]


def change(file: Path, **entries: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | entries), encoding="utf-8")


PAIR = "expected a library and a class, or [null, null] where the pipeline has no such part"


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("vae", ["diffusers"], 'is ["diffusers"]; a StableDiffusionPipeline needs ["diffusers", "AutoencoderKL"]'),
        ("vae", ["diffusers", 3], 'is ["diffusers", 3]; a StableDiffusionPipeline needs '),
        ("vae", None, "is null; a StableDiffusionPipeline needs "),
        ("unet", ["mylib", "UNet2DConditionModel"], 'is ["mylib", "UNet2DConditionModel"]; a StableDiffusionPipeline'),
        ("text_encoder", ["transformers", "FooModel"], 'is ["transformers", "FooModel"]; a StableDiffusionPipeline '),
        ("tokenizer", None, f"is null; {PAIR}"),
        ("tokenizer", ["transformers", None], f'is ["transformers", null]; {PAIR}'),
        ("feature_extractor", ["transformers"], f'is ["transformers"]; {PAIR}'),
    ],
)
def test_entries_of_the_index(teacher: Path, name: str, entry: Any, message: str) -> None:
    change(teacher / "model_index.json", **{name: entry})
    [found] = mistakes(teacher)
    assert found.startswith(f"path: model_index.json: the entry '{name}' {message}")


def test_an_entry_that_is_missing(teacher: Path) -> None:
    index = json.loads((teacher / "model_index.json").read_text(encoding="utf-8"))
    del index["text_encoder"]
    (teacher / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    [found] = mistakes(teacher)
    assert found.startswith("path: model_index.json: the entry 'text_encoder' is not there; a StableDiffusionPipeline")


@pytest.mark.parametrize(
    ("file", "entry", "message"),
    [
        ("model_index.json", {"_class_name": {"a": 1}}, "model_index.json: the pipeline is a {'a': 1}; supported: "),
        ("model_index.json", {"_class_name": [[]]}, "model_index.json: the pipeline is a []; supported: "),
        ("unet/config.json", {"_class_name": ["a"]}, "unet/config.json: the network is a ['a']; supported: "),
        ("text_encoder/config.json", {"architectures": 5}, "text_encoder/config.json: the network is a 5; supported: "),
        ("text_encoder/config.json", {"architectures": []}, "text_encoder/config.json: the network is a None; "),
    ],
)
def test_classes_that_are_none(teacher: Path, file: str, entry: dict[str, Any], message: str) -> None:
    change(teacher / file, **entry)
    [found] = mistakes(teacher)
    assert found.startswith(f"path: {message}")


def test_a_guidance_scale_that_is_none(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    change(tmp_path / "teacher/model_index.json", guidance_scale="high")
    result = call("distill", tmp_path / "teacher")
    told = "teacher/model_index.json: guidance_scale must be a number (got 'high')\n"
    assert (result.exit_code, result.stderr.endswith(told)) == (2, True)


def no_words(teacher: Path) -> None:
    (teacher / "tokenizer/tokenizer.json").unlink()


def empty_part(teacher: Path) -> None:
    (teacher / "safety_checker").mkdir()
    change(teacher / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])


def pipe(teacher: Path) -> None:
    (teacher / "tokenizer/inner").mkdir()
    os.mkfifo(teacher / "tokenizer/inner/pipe")


def link(teacher: Path) -> None:
    (teacher / "vae/notes.txt").symlink_to("gone.txt")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_words, "tokenizer: has no vocabulary (tokenizer.json, or vocab.json with merges.txt, or spiece.model); "),
        (empty_part, "safety_checker: has no config, and model_index.json names it as a part; get the folder anew"),
        (pipe, "tokenizer/inner/pipe: is no file, but a pipe, a socket or a device; remove it, as an export copies "),
        (link, "vae/notes.txt: is a link to gone.txt, which is not there; remove it, as an export copies the folder"),
    ],
)
def test_parts_that_an_export_would_copy(teacher: Path, spoil: Callable[[Path], None], message: str) -> None:
    """transformers would take a tokenizer without a vocabulary for one that knows no words."""
    spoil(teacher)
    [found] = mistakes(teacher)
    assert found.startswith(f"path: {message}")


def test_a_tokenizer_that_does_not_say_how_long_texts_are(teacher: Path) -> None:
    change(teacher / "tokenizer/tokenizer_config.json", model_max_length=None)
    with pytest.raises(DistillkitError, match=r"/tokenizer: has no tokenizer_config.json that gives model_max_length"):
        load(teacher, prompts=PROMPTS)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_sizes_of_pictures_are_checked_before_anything_is_loaded(teacher: Path) -> None:
    assert mistakes(teacher, size=7) == ["size: 7 × 7; StableDiffusionPipeline takes multiples of 8 pixels"]
    assert mistakes(teacher, size=(16, 24)) == []
    change(teacher / "unet/config.json", sample_size=None)
    assert mistakes(teacher) == ["size: is required: the network's config does not say the pictures' size"]
    change(teacher / "unet/config.json", sample_size="8")
    assert mistakes(teacher) == ["path: unet/config.json: sample_size must be one number or two, above 0 (got '8')"]
    change(teacher / "vae/config.json", block_out_channels=8)
    assert "path: vae/config.json: block_out_channels must be a list (got 8)" in mistakes(teacher, size=8)


def test_sizes_of_fluxs_pictures(tmp_path: Path) -> None:
    flux(tmp_path)
    assert mistakes(tmp_path, size=18) == ["size: 18 × 18; FluxPipeline takes multiples of 4 pixels"]
    assert mistakes(tmp_path) == []


def test_sizes_that_the_levels_of_a_network_do_not_halve(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path)
    change(tmp_path / "unet/config.json", sample_size=[8, 7])
    assert mistakes(tmp_path, prompts=None) == [
        "path: unet/config.json: sample_size is 8 × 7; expected multiples of 2, as the network has 2 levels "
        "(block_out_channels)"
    ]
    arguments = {"sample_size": 12, "block_out_channels": [8] * 4}
    new = DiffusersModel(DiffusersModel.Options(network=arguments, scheduler={"num_train_timesteps": 10}))
    assert "sample_size is 12; expected multiples of 8, as the network has 4 levels" in "".join(map(str, new.check()))


def test_sizes_that_patches_do_not_divide(tmp_path: Path) -> None:
    dit().save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline"}), encoding="utf-8")
    change(tmp_path / "transformer/config.json", sample_size=9)
    told = "path: transformer/config.json: sample_size is 9 × 9; expected multiples of patch_size (2)"
    assert told in mistakes(tmp_path, prompts=None)


# --- steps -----------------------------------------------------------------------------------------------------------


def call(*words: Any) -> Any:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_more_steps_than_the_noise_path_has(tmp_path: Path) -> None:
    """Found by check, and by distill, which writes no config for them."""
    ddpm_pipeline(tmp_path / "teacher")
    change(tmp_path / "teacher/scheduler/scheduler_config.json", num_train_timesteps=100)
    config = tmp_path / "mine.toml"
    config.write_text(f'preset = "dsdi"\nrun.updates = 8\n{tables(tmp_path / "teacher")}')
    result = call("check", config, "--set", "evaluation.teacher_steps=[101]", "--set", "evaluation.export_steps=200")
    said = "a grid of {} steps needs 1 to 100 steps: the noise path has 100 times"
    assert f"evaluation.teacher_steps: {said.format(101)}" in result.stderr
    assert f"evaluation.export_steps: {said.format(200)}" in result.stderr
    assert call("check", config, "--set", "evaluation.teacher_steps=[100]").exit_code == 0
    assert "1 to 50 steps" in call("check", config, "--set", "grid.start=49", "--set", "evaluation.steps=[51]").stderr
    result = call(
        "distill", tmp_path / "teacher", "--steps", 64, "--method", "dsd-anchored", "--write", tmp_path / "written.toml"
    )
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"evaluation.steps: {said.format(256)}" in result.stderr
    assert not (tmp_path / "written.toml").exists()


def test_more_steps_than_a_consistency_sampler_has(tmp_path: Path) -> None:
    """Found before the first update: only the student is sampled so."""
    ddpm_pipeline(tmp_path / "teacher")
    file = tmp_path / "teacher/scheduler/scheduler_config.json"
    change(file, _class_name="LCMScheduler", original_inference_steps=50)
    (tmp_path / "mine.toml").write_text(f'preset = "dsdi"\nrun.updates = 8\n{tables(tmp_path / "teacher")}')
    words = ("--set", 'evaluation.sampler="consistency"', "--set", "evaluation.steps=[64]", "--set", "grid.start=999")
    result = call("run", tmp_path / "mine.toml", *words, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "evaluation.steps: 64 steps are more than the scheduler's original_inference_steps, 50" in result.stderr
    assert not (tmp_path / "run").exists()


# --- what else is there ----------------------------------------------------------------------------------------------


def test_an_average_is_named(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    words = ("distill", tmp_path / "teacher", "--steps", 4, "--write", tmp_path / "written.toml")
    told = "beside it unet_ema/ (to distil it instead: --set model.subfolder=unet_ema)"
    assert told not in call(*words).stdout
    (tmp_path / "written.toml").unlink()
    pixel_unet().save_pretrained(tmp_path / "teacher/unet_ema")
    assert told in call(*words).stdout.splitlines()
    (tmp_path / "written.toml").unlink()
    assert told not in call(*words, "--set", "model.subfolder=unet_ema").stdout
