"""`distillkit convert`: a latent diffusion of CompVis as a pipeline of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from distillkit_diffusers import pipelines
from distillkit_diffusers.export import CLASS_CONDITIONAL, UNCONDITIONAL, save

from distillkit.interfaces import Converter
from distillkit_compvis.checkpoint import read_checkpoint
from distillkit_compvis.config import Diffusion, read_config
from distillkit_compvis.networks import autoencoder_naming, build_autoencoder, build_unet, unet_naming
from distillkit_compvis.weights import UNET, Origin, Weights

IMAGENET = 1000
"""The default number of classes of CompVis' `ClassEmbedder`."""
STEPS = 50
"""The number of steps in the model card's example."""
CARD = """---
library_name: diffusers
pipeline_tag: unconditional-image-generation
tags: [diffusion]
---

# Latent diffusion

A latent diffusion of CompVis (Rombach et al. 2022), which `distillkit convert` made of {origin}.

```python
{snippet}
```
"""


class CompVis(Converter):
    """CompVis' latent-diffusion with a VQ first stage: unconditional, or conditioned on classes."""

    name = "compvis"
    default = True

    def convert(self, checkpoint: Path, config: Path, ema: bool, folder: Path) -> str:
        """See the base class. The config is read first, as it is small."""
        params = read_config(config)
        weights = Weights.of(read_checkpoint(checkpoint), ema)
        weights.check_size(params.tensors, checkpoint, config)
        parts = build_networks(params, weights)
        weights.check(make_scheduler(params).betas, checkpoint, config)
        weights.load(checkpoint)
        which = "averaged (EMA)" if weights.ema else "not averaged"
        name = write(parts, params, f"`{checkpoint.name}` (the U-Net's weights {which})", folder)
        count = sum(weight.numel() for weight in parts["unet"].parameters())
        return f"{name}, {count / 1e6:.2f} M weights in the U-Net, {which}"


def make_scheduler(params: Diffusion) -> diffusers.DDIMScheduler:
    """The noise schedule, with CompVis' own times 1, 1 + T/S, …, at every number of steps S that divides T."""
    return diffusers.DDIMScheduler(
        num_train_timesteps=params.timesteps,
        beta_schedule="scaled_linear",
        beta_start=params.linear_start,
        beta_end=params.linear_end,
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
        clip_sample=False,
    )


def build_networks(params: Diffusion, weights: Weights) -> dict[str, torch.nn.Module]:
    """diffusers' networks by the names of their parts. `weights` has found theirs, and is to load them."""
    first_stage, diffused = params.first_stage_config.params, params.unet_config.params
    vqvae = build_autoencoder(first_stage, params.scale_factor)
    weights.fill(vqvae, "first_stage_model.", autoencoder_naming(first_stage))
    network = build_unet(diffused)
    weights.fill(network, UNET, unet_naming(diffused))
    made = {"vqvae": vqvae, "unet": network}
    if params.cond_stage_config is not None:
        condition = params.cond_stage_config.params
        with torch.device("meta"):
            embedder = pipelines.class_embedder.ClassEmbedder(condition.n_classes or IMAGENET, condition.embed_dim)
        weights.fill(embedder, "cond_stage_model.", Origin)
        made["class_embedder"] = embedder
    return made


def write(parts: dict[str, Any], params: Diffusion, origin: str, folder: Path) -> str:
    """Write a pipeline, and return the name of its class.

    Args:
        parts: the networks by name.
        params: the config.
        origin: the source of the weights, for the model card.
        folder: the folder to write to.
    """
    if params.cond_stage_config is None:
        pipeline = diffusers.LDMPipeline(**parts, scheduler=make_scheduler(params))
        snippet = UNCONDITIONAL
    else:
        classes = params.cond_stage_config.params.n_classes
        null_class = None if classes is None else classes - 1
        pipeline = pipelines.class_conditional.ClassLatentPipeline(
            **parts, scheduler=make_scheduler(params), null_class=null_class
        )
        snippet = CLASS_CONDITIONAL
    text = CARD.format(origin=origin, snippet=snippet.format(steps=STEPS, file="class_conditional.py"))
    save(pipeline, folder, text)
    return str(type(pipeline).__name__)
