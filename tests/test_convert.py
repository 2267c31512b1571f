"""`distillkit convert`: networks in plain torch, and what diffusers makes of their checkpoints.

At the published models' own sizes (274 and 401 M weights; about 5 minutes on 2 cores, 8 GB):

    DISTILLKIT_FULL_SIZE=1 pytest tests/test_convert.py -k "compute"
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel, UNet2DModel, VQModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from distillkit_compvis.config import Config
from distillkit_compvis.converter import build_networks
from distillkit_compvis.weights import Weights
from distillkit_diffusers.pipelines.class_embedder import ClassEmbedder
from helpers.compvis.configs import config
from helpers.compvis.model import LatentDiffusion, write
from safetensors.torch import load_file
from torch import Tensor

from distillkit.cli.group import cli

FULL_SIZE = pytest.param(
    False,
    marks=[
        pytest.mark.skipif(not os.environ.get("DISTILLKIT_FULL_SIZE"), reason="takes minutes: DISTILLKIT_FULL_SIZE=1"),
        pytest.mark.timeout(1800),
    ],
    id="full size",
)
NAMES = ("CelebA-HQ", "LSUN Bedroom", "ImageNet")


@dataclass
class Converted:
    """A folder with the pipeline in `pipeline`, made from the network's checkpoint."""

    network: LatentDiffusion
    folder: Path
    said: str


def convert(folder: Path, *options: str) -> str:
    """Convert a folder's checkpoint to its `pipeline`; what the command said."""
    words = [str(folder / "model.ckpt"), "--config", str(folder / "config.yaml"), "--output", str(folder / "pipeline")]
    done = CliRunner().invoke(cli, ["convert", *words, *options], catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def build(name: str, folder: Path, small: bool) -> Converted:
    """One of the three with random weights."""
    content = config(classes=name == "ImageNet", small=small)
    network = LatentDiffusion(content["model"]["params"], seed=NAMES.index(name))
    write(folder, content, network.state())
    return Converted(network, folder, convert(folder))


@pytest.fixture(params=[pytest.param(True, id="small"), FULL_SIZE])
def small(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_networks_compute_the_same(name: str, small: bool, tmp_path: Path) -> None:
    made = build(name, tmp_path, small)
    params = made.network.model["diffusion_model"]
    size = 16 if small else 64
    z, t = torch.randn(2, 3, size, size), torch.tensor([1, 801])
    pipeline = tmp_path / "pipeline"
    if name == "ImageNet":
        null = 10 if small else 1000
        labels = torch.tensor([3, null])
        expected = made.network.predict(z, t, labels)
        context = ClassEmbedder.from_pretrained(pipeline / "class_embedder")(labels)
        output = UNet2DConditionModel.from_pretrained(pipeline / "unet")(z, t, context).sample
        assert json.loads((pipeline / "model_index.json").read_text())["null_class"] == null
    else:
        expected = made.network.predict(z, t)
        output = UNet2DModel.from_pretrained(pipeline / "unet")(z, t).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-4)
    count = sum(weight.numel() for weight in params.parameters())
    assert small or f"{count / 1e6:.2f}" == ("400.92" if name == "ImageNet" else "274.06")  # the paper's table 3
    assert f"{count / 1e6:.2f} M weights in the U-Net" in made.said

    vqvae = VQModel.from_pretrained(pipeline / "vqvae")
    theirs = made.network.first_stage_model
    images = torch.rand(1, 3, 4 * size, 4 * size) * 2 - 1
    torch.testing.assert_close(vqvae.encode(images).latents, theirs.encode(images), rtol=0, atol=1e-4)
    torch.testing.assert_close(vqvae.decode(z[:1]).sample, theirs.decode(z[:1]), rtol=0, atol=1e-4)
    assert vqvae.config.scaling_factor == 1.0


@pytest.mark.parametrize(("classes", "millions"), [(False, "274.06"), (True, "400.92")])
def test_published_sizes_fit(classes: bool, millions: str) -> None:
    """Every name and size of the published models, without a number in them."""
    content = config(classes, small=False)
    with torch.device("meta"):
        state = LatentDiffusion(content["model"]["params"]).state_dict()
    weights = Weights.of(state, ema=True)
    parts = build_networks(Config.model_validate(content).model.params, weights)
    assert (weights.missing, weights.misshapen, [*state.keys() - weights.used]) == ([], [], [])
    assert f"{sum(weight.numel() for weight in parts['unet'].parameters()) / 1e6:.2f}" == millions


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Converted]:
    """An unconditional and a class-conditional one, both small, in one folder."""
    top = tmp_path_factory.mktemp("converted")
    return {name: build(name, top / name, small=True) for name in ("CelebA-HQ", "ImageNet")}


@torch.no_grad()
def test_the_stock_pipeline_samples_as_compvis_does(
    pair: dict[str, Converted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the class-conditional one is ours: see test_class_latent.py."""
    made = pair["CelebA-HQ"]
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    pipe = DiffusionPipeline.from_pretrained(made.folder / "pipeline")
    assert type(pipe).__name__ == "LDMPipeline"
    pipe.set_progress_bar_config(disable=True)
    # It takes no noise: hand it over where it would be drawn.
    monkeypatch.setattr(sys.modules[type(pipe).__module__], "randn_tensor", lambda *_, **__: noise)
    images = torch.from_numpy(pipe(batch_size=2, num_inference_steps=4, output_type="np").images).permute(0, 3, 1, 2)
    latents = made.network.sample(noise, 4)
    expected = (made.network.first_stage_model.decode(latents) / 2 + 0.5).clamp(0, 1)
    assert expected.std() > 0.05
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("classes", "heads"),
    [(True, {"num_heads": 4}), (True, {"num_head_channels": 16}), (False, {"num_heads": 1})],
    ids=str,
)
@torch.no_grad()
def test_other_heads(classes: bool, heads: dict[str, int]) -> None:
    content = config(classes, small=True)
    unet = content["model"]["params"]["unet_config"]["params"]
    unet.pop("num_heads" if classes else "num_head_channels")
    unet |= heads
    network = LatentDiffusion(content["model"]["params"])
    weights = Weights.of(network.state(), ema=True)
    parts = build_networks(Config.model_validate(content).model.params, weights)
    weights.load(Path("model.ckpt"))
    z, t = torch.randn(2, 3, 16, 16), torch.tensor([1, 801])
    labels = torch.tensor([3, 10]) if classes else None
    context = [] if labels is None else [parts["class_embedder"](labels)]
    output = parts["unet"].eval()(z, t, *context).sample
    torch.testing.assert_close(output, network.predict(z, t, labels), rtol=0, atol=1e-4)


def test_scheduler_is_compvis_own(pair: dict[str, Converted]) -> None:
    scheduler = DDIMScheduler.from_pretrained(pair["ImageNet"].folder / "pipeline/scheduler")
    assert {
        key: scheduler.config[key] for key in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")
    } == {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.0015,
        "beta_end": 0.0195,
        "num_train_timesteps": 1000,
    }
    assert (scheduler.config["prediction_type"], scheduler.config["clip_sample"]) == ("epsilon", False)
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [751, 501, 251, 1]
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]


def test_folder_holds_no_pickle(pair: dict[str, Converted]) -> None:
    for made in pair.values():
        files = [file for file in (made.folder / "pipeline").rglob("*") if file.is_file()]
        assert {file.suffix for file in files} <= {".json", ".safetensors", ".py", ".md"}
        assert sorted(file.name for file in made.folder.iterdir()) == ["config.yaml", "model.ckpt", "pipeline"]


def test_names_are_those_of_published_checkpoints(pair: dict[str, Converted]) -> None:
    """diffusers reads the same layers (those of Stable Diffusion) from the same names, by code of its own."""
    folder, state = pair["ImageNet"].folder / "pipeline", pair["ImageNet"].network.state()
    ours = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    unet = json.loads((folder / "unet/config.json").read_text(encoding="utf-8"))
    theirs: dict[str, Tensor] = convert_ldm_unet_checkpoint(dict(state), unet)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    ours = load_file(folder / "vqvae/diffusion_pytorch_model.safetensors")
    vqvae: dict[str, Any] = json.loads((folder / "vqvae/config.json").read_text(encoding="utf-8"))
    theirs = convert_ldm_vae_checkpoint(dict(state), vqvae)
    assert {*ours} - {*theirs} == {"quantize.embedding.weight"}
    assert all(torch.equal(ours[name].flatten(), weight.flatten()) for name, weight in theirs.items())


def test_the_average_is_taken_where_there_is_one(pair: dict[str, Converted], tmp_path: Path) -> None:
    made = pair["CelebA-HQ"]
    assert made.said.endswith(" M weights in the U-Net, not averaged\n")
    raw = {key: value for key, value in made.network.state().items() if key.startswith("model.")}
    write(tmp_path, config(classes=False, small=True), made.network.state({key: raw[key] + 1 for key in raw}))
    assert convert(tmp_path).endswith(" M weights in the U-Net, averaged (EMA)\n")
    weights = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(made.folder / "pipeline" / weights), load_file(tmp_path / "pipeline" / weights)
    assert all(torch.equal(after[key], before[key] + 1) for key in before)

    (tmp_path / "pipeline").rename(tmp_path / "averaged")
    assert convert(tmp_path, "--no-ema").endswith(" M weights in the U-Net, not averaged\n")
    after = load_file(tmp_path / "pipeline" / weights)
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_half_precision_and_another_scale_factor(pair: dict[str, Converted], tmp_path: Path) -> None:
    content = config(classes=False, small=True)
    content["model"]["params"]["scale_factor"] = 0.5
    state = pair["CelebA-HQ"].network.state()
    write(tmp_path, content, {key: value.half() for key, value in state.items()} | {"betas": state["betas"]})
    convert(tmp_path)
    assert VQModel.from_pretrained(tmp_path / "pipeline/vqvae").config.scaling_factor == 0.5
    weights = load_file(tmp_path / "pipeline/unet/diffusion_pytorch_model.safetensors")
    before = load_file(pair["CelebA-HQ"].folder / "pipeline/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weights[key], before[key].half().float()) for key in before)


def test_a_config_that_names_no_classes_has_no_null_class(pair: dict[str, Converted], tmp_path: Path) -> None:
    content = config(classes=True, small=True)
    del content["model"]["params"]["cond_stage_config"]["params"]["n_classes"]
    state = pair["ImageNet"].network.state()
    write(tmp_path, content, state | {"cond_stage_model.embedding.weight": torch.randn(1000, 24)})
    convert(tmp_path)
    assert json.loads((tmp_path / "pipeline/model_index.json").read_text())["null_class"] is None
