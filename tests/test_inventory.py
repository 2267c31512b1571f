"""What a model's files say of its size, against what is loaded; and what a run then holds in memory."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, DiTPipeline, LDMPipeline, VQModel
from distillkit_diffusers.model import DiffusersModel
from helpers.digits import settings
from helpers.networks import (
    ddim_scheduler,
    ddpm_pipeline,
    dit,
    half_precision,
    kl_autoencoder,
    oblong,
    pixel_unet,
    pndm_class_conditional,
    sharded,
    tables,
)
from torch import nn

from distillkit.config.fit import estimate
from distillkit.errors import DistillkitError
from distillkit.interfaces import Inventory
from distillkit.sampling import generator
from distillkit.training import assemble


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def found(folder: Path) -> Inventory:
    inventory = DiffusersModel(DiffusersModel.Options(path=folder)).inventory()
    assert inventory is not None
    return inventory


@pytest.mark.parametrize("save", [ddpm_pipeline, half_precision, sharded, oblong])
def test_pixel_networks(tmp_path: Path, save: Any) -> None:
    save(tmp_path)
    size = 128 if save is oblong else 64
    assert found(tmp_path) == Inventory("DDPMPipeline", count(pixel_unet()), 0, size, 1.0)


def test_whole_weights_before_half_ones(tmp_path: Path) -> None:
    """As they are loaded."""
    half_precision(tmp_path)
    pixel_unet(layers_per_block=2).save_pretrained(tmp_path / "unet")
    assert found(tmp_path).parameters == count(pixel_unet(layers_per_block=2))


def test_parts_without_a_pipeline(tmp_path: Path) -> None:
    pndm_class_conditional(tmp_path)
    assert found(tmp_path) == Inventory("UNet2DModel", count(pixel_unet(num_class_embeds=10)), 0, 64, 1.0)


def test_a_new_network_has_no_files() -> None:
    options = DiffusersModel.Options(network={"sample_size": 8}, scheduler={"beta_schedule": "linear"})
    assert DiffusersModel(options).inventory() is None


def test_latent_models(tmp_path: Path) -> None:
    vqvae = VQModel(block_out_channels=(32,), latent_channels=3, num_vq_embeddings=8, scaling_factor=1.0)
    LDMPipeline(vqvae, pixel_unet(in_channels=3, out_channels=3), DDPMScheduler(clip_sample=False)).save_pretrained(
        tmp_path
    )
    unet = count(pixel_unet(in_channels=3, out_channels=3))
    assert found(tmp_path) == Inventory("LDMPipeline", unet, count(vqvae), 64, 1.0)


def test_guidance_is_the_pipelines(tmp_path: Path) -> None:
    """DiTPipeline's default, where the network has the null class that it compares with."""
    for classes, scale in ((1000, 4.0), (10, 1.0)):
        DiTPipeline(dit(num_embeds_ada_norm=classes), kl_autoencoder(), ddim_scheduler()).save_pretrained(tmp_path)
        expected = Inventory("DiTPipeline", count(dit(num_embeds_ada_norm=classes)), count(kl_autoencoder()), 64, scale)
        assert found(tmp_path) == expected
    ddpm_pipeline(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text(encoding="utf-8")) | {"guidance_scale": 2.5}))
    assert found(tmp_path).guidance == 2.5


def test_damaged_weights(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path)
    file = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DistillkitError) as caught:
        found(tmp_path)
    assert str(caught.value).startswith(f"{file}: cannot be read as safetensors (")


def test_torch_is_not_needed(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path)
    script = (
        "import sys; from pathlib import Path\n"
        "from distillkit.lazy import lazy_imports\n"
        "with lazy_imports():\n    from distillkit_diffusers.model import DiffusersModel\n"
        f"print(DiffusersModel(DiffusersModel.Options(path=Path({str(tmp_path)!r}))).inventory().parameters, "
        "'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{count(pixel_unet())} False\n"


def bytes_of_tensors() -> int:
    """Of all tensors that there are, each storage once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        # Not isinstance: that would wake what is only loaded when it is looked at.
        if issubclass(type(thing), torch.Tensor):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
            if thing.grad is not None:
                storages[thing.grad.untyped_storage().data_ptr()] = thing.grad.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("preset", ["dsdi", "dsd-anchored", "tsd", "consistency", "matching"])
def test_a_run_holds_what_is_estimated(tmp_path: Path, preset: str) -> None:
    """Counted between a backward pass and the update, when everything is there but activations."""
    vqvae = VQModel(block_out_channels=(32,), latent_channels=3, num_vq_embeddings=8, scaling_factor=1.0)
    unet = pixel_unet(in_channels=3, out_channels=3, block_out_channels=(32, 64))
    LDMPipeline(vqvae, unet, DDPMScheduler(clip_sample=False)).save_pretrained(tmp_path / "teacher")
    del vqvae, unet
    before = bytes_of_tensors()
    chosen = settings(
        tmp_path, preset, "run.updates=8", "source.batch=1", tables=tables(tmp_path / "teacher")
    ).components()
    expected = estimate(chosen, found(tmp_path / "teacher")).total
    parts = assemble.load(chosen)
    assemble.prepare(parts)
    stage = parts.plan[0]
    chosen.source.start_stage(stage, parts.student.path)
    assert chosen.target is not None
    chosen.target.start_stage(stage, parts.student.path)
    for update in range(2):  # with the first, the optimiser's moments come
        loss, *_ = chosen.engine.forward(chosen.source.draw(generator(0, update)))
        if update == 0:
            chosen.engine.update(loss, 1e-6)
    loss.backward()
    del loss
    assert bytes_of_tensors() - before == pytest.approx(expected, rel=0.05)
