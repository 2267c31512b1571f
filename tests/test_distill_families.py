"""`distillkit distill` and `distillkit evaluate` on every family, as a stranger's folder comes."""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import DiTPipeline, UNet2DModel
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.hub import files_of
from distillkit_diffusers.lora import add
from distillkit_diffusers.model import DiffusersModel
from helpers.networks import ddim_scheduler, ddpm_pipeline, dit, kl_autoencoder, latent_pipeline
from helpers.text_pipelines import PROMPTS, flux, sd3, sdxl, stable_diffusion, unet
from PIL import Image
from safetensors.torch import load_file, save_file

from distillkit.cli.group import cli
from distillkit.errors import DistillkitError
from distillkit.interfaces import StudentTable


def dit_pipeline(folder: Path) -> None:
    DiTPipeline(dit(num_embeds_ada_norm=1000), kl_autoencoder(), ddim_scheduler()).save_pretrained(folder)


TEXT: dict[str, Callable[[Path], Any]] = {
    "StableDiffusionPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": sdxl,
    "StableDiffusion3Pipeline": sd3,
    "FluxPipeline": partial(flux, guidance_embeds=True),
}
OTHERS: dict[str, Callable[[Path], Any]] = {
    "LDMPipeline": latent_pipeline,
    "DiTPipeline": dit_pipeline,
    "DDPMPipeline": ddpm_pipeline,
}


def call(*words: Any) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)


def written(folder: Path, *words: Any) -> dict[str, Any]:
    """The config that `distill` makes for a pipeline."""
    result = call("distill", folder, "--write", folder / "mine.toml", *words)
    assert result.exit_code == 0, result.output
    return tomllib.loads((folder / "mine.toml").read_text(encoding="utf-8"))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS), encoding="utf-8")
    return tmp_path / "prompts.txt"


@pytest.mark.parametrize("name", TEXT)
def test_text(name: str, tmp_path: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a folder to a pipeline, with the stock pipeline's guidance, wherever the run's files are read from."""
    TEXT[name](tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    words = (
        "--steps",
        2,
        "--updates",
        2,
        "--prompts",
        "prompts.txt",
        "--set",
        "tracker.type=none",
        "--set",
        "engine.precision=fp32",
    )
    # Flux' latents are large if it is not told otherwise.
    small = ("--set", "evaluation.grid=1", "--set", "model.size=16", "--set", "source.trajectories=1")
    result = call("distill", "teacher", *words, "--output", "run", *small)
    assert result.exit_code == 0, result.output
    config = tomllib.loads((tmp_path / "run/config.toml").read_text(encoding="utf-8"))
    stock = inspect.signature(getattr(diffusers, name).__call__).parameters["guidance_scale"].default
    # Inside the student; Flux takes the scale as an input.
    assert config["source"]["guidance"] == stock
    assert config["evaluation"]["guidance"] == (stock if name == "FluxPipeline" else 1)
    monkeypatch.chdir(tmp_path / "run")
    result = call("sample", tmp_path / "run", "--steps", 2, "--count", 2, "--output", "grid.png")
    assert result.exit_code == 0, result.output
    assert (config["model"]["path"], config["model"]["prompts_file"]) == (str(tmp_path / "teacher"), str(prompts))


def test_flux_without_an_input_for_the_scale(tmp_path: Path, prompts: Path) -> None:
    """As FluxPipeline: `true_cfg_scale` is 1 if it is not told."""
    flux(tmp_path / "teacher")
    assert written(tmp_path / "teacher", "--prompts", prompts)["evaluation"]["guidance"] == 1


@pytest.mark.parametrize("name", OTHERS)
def test_scores_with_pictures(name: str, tmp_path: Path) -> None:
    """Pictures are as large as the model's, not as its latents."""
    OTHERS[name](tmp_path / "teacher")
    (tmp_path / "real").mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(3):
        pixels = torch.randint(256, (20, 20, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"real/{i}.png")
    words = ("--features", "pixels", "--reference", tmp_path / "real", "--samples", 2, "--steps", 1, "--json")
    result = call("evaluate", tmp_path / "teacher", *words)
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert "3 real" in row["protocol"]


def test_a_guidance_that_no_pipeline_does(tmp_path: Path) -> None:
    dit_pipeline(tmp_path / "teacher")
    result = call("distill", tmp_path / "teacher", "--guidance", 0.5, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "must be 1 (none) or more, as diffusers' pipelines guide above 1" in result.output
    assert not (tmp_path / "run").exists()


def test_a_stretched_grid_that_the_pipeline_hands_over(tmp_path: Path) -> None:
    flux(tmp_path, shift_terminal=0.1)
    model = DiffusersModel(DiffusersModel.Options(path=tmp_path, prompts=("a",)))
    [mistake] = model.check()
    assert str(mistake).startswith("scheduler.shift_terminal: is set, which stretches the grid")
    model = DiffusersModel(DiffusersModel.Options(path=tmp_path, prompts=("a",), scheduler={"shift_terminal": 0}))
    assert [*model.check()] == []
    model.load()
    assert model.spec.path.grid(4).tolist()[-1] == 0


@pytest.mark.parametrize("change", ["without", "another shape"])
def test_weights_that_are_not_whole(tmp_path: Path, change: str) -> None:
    """diffusers warns, and begins with random numbers."""
    ddpm_pipeline(tmp_path)
    file = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    gone = weights.pop("conv_in.weight")
    save_file(weights if change == "without" else weights | {"conv_in.weight": gone[:1].contiguous()}, file)
    with pytest.raises(DistillkitError, match=r"(?s)^model\.path: .*conv_in\.weight"):
        DiffusersModel(DiffusersModel.Options(path=tmp_path)).load()


@pytest.mark.parametrize("size", ["x", [8], {"a": 1}, 0, [8, -8]])
def test_a_size_that_is_none(tmp_path: Path, size: Any) -> None:
    ddpm_pipeline(tmp_path)
    file = tmp_path / "unet/config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"sample_size": size}))
    with pytest.raises(DistillkitError, match=r"config\.json: sample_size must be one number or two, above 0 \(got "):
        DiffusersModel(DiffusersModel.Options(path=tmp_path)).inventory()


def test_a_class_that_is_none(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text(encoding="utf-8")) | {"_class_name": []}))
    assert PipelineFolder(tmp_path).pipeline_class is None


@pytest.mark.parametrize("targets", [None, ("to_q", "conv1")])
def test_size_of_an_adapter(tmp_path: Path, targets: tuple[str, ...] | None) -> None:
    """By the files' headers, against the matrices that peft makes."""
    made = unet()
    made.save_pretrained(tmp_path)
    student = StudentTable(adapter="lora", rank=3, target_modules=targets)
    found = PipelineFolder(tmp_path).adapter_parameters("unet", student)
    before = sum(weight.numel() for weight in made.parameters())
    add(made, student)
    assert found == sum(weight.numel() for weight in made.parameters()) - before


def test_memory_of_an_adapter(tmp_path: Path) -> None:
    """Of the network's weights there is one copy, without gradient; the learning rate is for the adapter's size."""
    UNet2DModel(
        sample_size=8,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
    ).save_pretrained(tmp_path / "unet")
    rates, said = [], []
    for words in ((), ("--set", "student.adapter=lora", "--set", "student.rank=1")):
        file = tmp_path / f"{len(rates)}.toml"
        options = ("--set", "model.scheduler.beta_schedule=linear", "--write", file)
        result = call("distill", tmp_path, *options, *words)
        assert result.exit_code == 0, result.output
        rates.append(tomllib.loads(file.read_text(encoding="utf-8"))["optimizer"]["learning_rate"])
        said.append(next(line for line in result.stdout.splitlines() if line.startswith("memory")))
    assert rates[1] > rates[0]
    assert [line.split()[2] for line in said] == ["MB", "MB"]
    assert float(said[1].split()[1]) < 0.5 * float(said[0].split()[1])


def test_what_is_fetched_from_the_hub() -> None:
    """Both layouts that pipelines have there, and nothing twice."""
    names = [
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.bin",
        "diffusion_pytorch_model.safetensors",
        "v1-5-pruned-emaonly.safetensors",
        "tokenizer/merges.txt",
    ]
    assert {*names} - {*files_of(names, None)} == {names[3], names[4], names[6]}
