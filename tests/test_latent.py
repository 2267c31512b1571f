"""Unconditional latent diffusion: LDMPipeline's parts, its scaling factor, and what distils and exports of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LDMPipeline, VQModel
from helpers.networks import NOISE, latent_pipeline, unet, vq_autoencoder
from helpers.pipelines import (
    assert_same_weights,
    assert_trained_alone,
    distil,
    load,
    own,
    stock,
    stock_alone,
)

from distillkit.errors import ConfigError, DistillkitError


def without_scaling_factor(folder: Path) -> Path:
    """As CompVis/ldm-celebahq-256 is: from before there was such a key."""
    file = folder / "vqvae/config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    del config["scaling_factor"]
    file.write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("factor", [1.0, 0.4])
def test_samples_as_the_stock_pipeline(tmp_path: Path, kind: str, factor: float) -> None:
    folder = latent_pipeline(tmp_path, vq_autoencoder(scaling_factor=factor), prediction_type=kind)
    model = load(folder)
    assert (model.spec.sample_shape, model.spec.classes, model.spec.prediction) == ((3, 8, 8), None, kind)
    for steps in (1, 4):
        theirs = stock(LDMPipeline.from_pretrained(folder), NOISE, batch_size=3, num_inference_steps=steps)
        ours = own(model, NOISE, steps)
        assert ours.shape == (3, 3, 16, 16)
        assert ours.std() > 0.05
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_encoding_is_before_quantisation(tmp_path: Path) -> None:
    folder = latent_pipeline(tmp_path, vq_autoencoder(scaling_factor=0.4))
    model, vqvae = load(folder), VQModel.from_pretrained(folder / "vqvae")
    # More than are encoded at once.
    images = torch.rand(11, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = vqvae.encode(images).latents
        decoded = vqvae.decode(latents).sample
    torch.testing.assert_close(model.encode(images), latents * 0.4, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.decode(model.encode(images)), decoded, rtol=0, atol=1e-5)


def test_without_a_scaling_factor_latents_are_as_they_come(tmp_path: Path) -> None:
    """diffusers takes 0.18215 then, which LDMPipeline divides by; an export says what is right."""
    model = load(without_scaling_factor(latent_pipeline(tmp_path / "teacher")))
    right = own(model, NOISE, 2)
    wrong = stock(LDMPipeline.from_pretrained(tmp_path / "teacher"), NOISE, batch_size=3, num_inference_steps=2)
    assert (right - wrong).abs().max() > 0.1
    said = stock(
        LDMPipeline.from_pretrained(latent_pipeline(tmp_path / "said")), NOISE, batch_size=3, num_inference_steps=2
    )
    torch.testing.assert_close(right, said, rtol=0, atol=1e-4)
    # Saved anew by diffusers, the wrong value is in the file: then one has to say it.
    LDMPipeline.from_pretrained(tmp_path / "teacher").save_pretrained(tmp_path / "anew")
    assert (own(load(tmp_path / "anew"), NOISE, 2) - right).abs().max() > 0.1
    torch.testing.assert_close(own(load(tmp_path / "anew", scaling_factor=1.0), NOISE, 2), right, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Path]:
    """A run, its settings, and its teacher, whose autoencoder says no scaling factor."""
    top = tmp_path_factory.mktemp("latent")
    teacher = without_scaling_factor(latent_pipeline(top / "teacher"))
    run, made = distil(top, teacher, "dsdi")
    return run, made, teacher


def test_only_the_unet_is_trained(distilled: tuple[Any, Any, Path]) -> None:
    run, made, teacher = distilled
    frozen = made.model.family.autoencoder.network
    assert_trained_alone(run, made, [frozen])
    assert_same_weights(teacher / "vqvae", run.folder / "pipeline/vqvae")
    before, after = unet().state_dict(), run.weights()
    assert any(not torch.equal(after[name], weight) for name, weight in before.items())


def test_an_export_samples_the_same_where_there_is_no_distillkit(
    distilled: tuple[Any, Any, Path], tmp_path: Path
) -> None:
    run, _, _ = distilled
    folder = run.folder / "pipeline"
    assert json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"] == "LDMPipeline"
    assert json.loads((folder / "vqvae/config.json").read_text(encoding="utf-8"))["scaling_factor"] == 1.0
    model = load(folder)
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(2)
    assert scheduler.timesteps.tolist() == model.spec.path.grid(2)[:-1].tolist()
    theirs = stock_alone(folder, NOISE, tmp_path / "alone", batch_size=3, num_inference_steps=2)
    torch.testing.assert_close(theirs, own(model, NOISE, 2), rtol=0, atol=1e-5)


def test_data_are_noised_latents(tmp_path: Path) -> None:
    """Progressive distillation on pictures of 16×16, which are encoded."""
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Image.new("RGB", (16, 16), (60 * i, 10, 200)).save(tmp_path / f"pictures/{i}.png")
    teacher = latent_pipeline(tmp_path / "teacher", prediction_type="v_prediction")
    data = ['data.type="images"', f'data.folder="{tmp_path / "pictures"}"', "data.size=16"]
    run, _ = distil(tmp_path / "top", teacher, "pd", *data)
    assert len(run.losses) == 3
    with pytest.raises(DistillkitError) as caught:
        distil(tmp_path / "other", teacher, "pd", *data[:2], "data.size=32")
    assert str(caught.value) == (
        "data: the images of 'images' make samples of (3, 16, 16) (channels, height, width), and the model takes "
        "(3, 8, 8); give it images of its own size"
    )


# --- what does not ---------------------------------------------------------------------------------------------------


def mistakes(folder: Path, **options: Any) -> str:
    """The mistakes of a run that it stops."""
    with pytest.raises(DistillkitError) as caught:
        distil(folder.parent / "top", folder, "dsdi", **options)
    assert not (folder.parent / "top/run").exists()
    found = caught.value
    return "\n".join(map(str, found.mistakes)) if isinstance(found, ConfigError) else str(found)


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    folder = latent_pipeline(tmp_path / "a", vq_autoencoder(latent_channels=4))
    assert mistakes(folder) == (
        f"model.path: the autoencoder in {folder}/vqvae makes latents of 4 channels, and the U-Net takes 3"
    )
    folder = latent_pipeline(tmp_path / "b")
    unet(num_class_embeds=5).save_pretrained(folder / "unet")
    assert mistakes(folder) == (
        f"model.path: the U-Net in {folder}/unet takes 5 classes, which an LDMPipeline cannot give it"
    )


def test_parts_that_are_missing(tmp_path: Path) -> None:
    folder = latent_pipeline(tmp_path / "a")
    (folder / "vqvae/config.json").unlink()
    assert mistakes(folder) == f"model.path: {folder} has no vqvae/config.json, which LDMPipeline needs"
    folder = latent_pipeline(tmp_path / "b")
    (folder / "vqvae/diffusion_pytorch_model.safetensors").rename(folder / "vqvae/model.ckpt")
    assert mistakes(folder).startswith(f"model.path: {folder}/vqvae has its weights as a pickle (model.ckpt), which")


def test_options_of_other_families(tmp_path: Path) -> None:
    folder = latent_pipeline(tmp_path / "teacher")
    assert mistakes(folder, model="null_class = 3") == "model.null_class: means nothing to LDMPipeline; leave it out"
