"""The exported LoRA in diffusers' own pipelines: tiny ones with random weights, each of a loader of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import logging
from distillkit_diffusers import lora
from torch import Tensor, nn

from distillkit.interfaces import StudentTable


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def unet(**more: Any) -> nn.Module:
    made: nn.Module = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        **more,
    )
    return made


@dataclass
class Case:
    """A network, its inputs, and a pipeline around it that has nothing else."""

    network: Callable[[], nn.Module]
    inputs: dict[str, Any]
    pipeline: Callable[[Any], Any]
    part: str


TIMES = torch.tensor([0.9, 0.2])
TOKENS = {"encoder_hidden_states": draw(2, 3, 8)}
NO_TEXT = {"vae": None, "text_encoder": None, "tokenizer": None}
NO_TEXT_2 = NO_TEXT | {"text_encoder_2": None, "tokenizer_2": None}
CASES = {
    "Stable Diffusion": Case(
        unet,
        {"sample": draw(2, 4, 8, 8), "timestep": 1000 * TIMES, **TOKENS},
        lambda network: StableDiffusionPipeline(
            **NO_TEXT,
            unet=network,
            scheduler=DDIMScheduler(prediction_type="v_prediction", clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ),
        "unet",
    ),
    "SDXL": Case(
        lambda: unet(
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=56,
            use_linear_projection=True,
        ),
        {
            "sample": draw(2, 4, 8, 8),
            "timestep": 1000 * TIMES,
            **TOKENS,
            "added_cond_kwargs": {"text_embeds": draw(2, 32), "time_ids": draw(2, 6)},
        },
        lambda network: StableDiffusionXLPipeline(**NO_TEXT_2, unet=network, scheduler=DDIMScheduler()),
        "unet",
    ),
    "SD3": Case(
        lambda: SD3Transformer2DModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=4,
            num_attention_heads=2,
            joint_attention_dim=8,
            caption_projection_dim=8,
            pooled_projection_dim=8,
            pos_embed_max_size=8,
        ),
        {"hidden_states": draw(2, 4, 8, 8), "timestep": 1000 * TIMES, **TOKENS, "pooled_projections": draw(2, 8)},
        lambda network: StableDiffusion3Pipeline(
            **NO_TEXT_2,
            text_encoder_3=None,
            tokenizer_3=None,
            transformer=network,
            scheduler=FlowMatchEulerDiscreteScheduler(),
        ),
        "transformer",
    ),
    "Flux": Case(
        lambda: FluxTransformer2DModel(
            in_channels=4,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            pooled_projection_dim=8,
            guidance_embeds=True,
            axes_dims_rope=(4, 4, 8),
        ),
        {
            "hidden_states": draw(2, 16, 4),
            "timestep": TIMES,
            **TOKENS,
            "pooled_projections": draw(2, 8),
            "img_ids": draw(16, 3),
            "txt_ids": torch.zeros(3, 3),
            "guidance": torch.tensor([1.0, 3.5]),
        },
        lambda network: FluxPipeline(**NO_TEXT_2, transformer=network, scheduler=FlowMatchEulerDiscreteScheduler()),
        "transformer",
    ),
}


@torch.no_grad()
def adapted(original: nn.Module) -> nn.Module:
    """A copy with a LoRA of every layer, which has been trained as it were."""
    network = copy.deepcopy(original)
    lora.add(network, StudentTable(adapter="lora", rank=3, alpha=1.5))
    for weight in network.parameters():
        if weight.requires_grad:
            weight.copy_(torch.randn_like(weight) / 5)
    return network


@pytest.fixture
def quiet() -> None:
    """diffusers says that there is no LoRA for the text encoders, which are not there."""
    logging.set_verbosity_error()


@pytest.mark.usefixtures("quiet")
@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_loaded_and_fused_are_the_same_network(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    # Frozen: torch multiplies in another order where a weight needs a gradient.
    original = case.network().requires_grad_(False).eval()
    before = original(**case.inputs).sample
    new = copy.deepcopy(original)
    lora.add(new, StudentTable(adapter="lora"))
    assert torch.equal(new(**case.inputs).sample, before)

    network = adapted(original)
    lora.write(network, case.part, tmp_path / "lora")
    trained = network(**case.inputs).sample
    assert (trained - before).abs().max() > 0.1
    lora.fuse(network)
    assert network.state_dict().keys() == original.state_dict().keys()
    torch.testing.assert_close(network(**case.inputs).sample, trained, rtol=0, atol=1e-5)
    pipe = case.pipeline(original)
    pipe.load_lora_weights(tmp_path / "lora")
    torch.testing.assert_close(original(**case.inputs).sample, trained, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("quiet")
@torch.no_grad()
def test_loaded_and_fused_sample_the_same(tmp_path: Path) -> None:
    case = CASES["Stable Diffusion"]
    torch.manual_seed(0)
    original = case.network().eval()
    network = adapted(original)
    lora.write(network, case.part, tmp_path / "lora")
    lora.fuse(network)
    loaded, fused = case.pipeline(original), case.pipeline(network)
    asked = {"prompt_embeds": draw(2, 3, 8), "guidance_scale": 1.0, "num_inference_steps": 4}
    images = []
    for pipe in (loaded, fused):
        pipe.set_progress_bar_config(disable=True)
        if pipe is loaded:
            without = pipe(**asked, latents=draw(2, 4, 8, 8), output_type="latent").images
            pipe.load_lora_weights(tmp_path / "lora")
        images.append(pipe(**asked, latents=draw(2, 4, 8, 8), output_type="latent").images)
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-5)
    assert (images[0] - without).abs().max() > 0.1
