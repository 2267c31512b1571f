"""The networks of a checkpoint as a pipeline's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from distillkit_diffusers import card
from distillkit_diffusers.export import save
from distillkit_diffusers.pipelines import class_embedder, class_latent
from distillkit_diffusers.pipelines.class_embedder import ClassEmbedder
from distillkit_diffusers.pipelines.class_latent import ClassLatentPipeline

from distillkit_compvis import autoencoder, unet
from distillkit_compvis.config import Diffusion
from distillkit_compvis.naming import Origin
from distillkit_compvis.weights import UNET, Weights

IMAGENET = 1000
"""The classes of CompVis' `ClassEmbedder`, if its config does not say."""
STEPS = 50
"""What the model card samples with."""
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


def scheduler(params: Diffusion) -> diffusers.DDIMScheduler:
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


def networks(params: Diffusion, weights: Weights) -> dict[str, torch.nn.Module]:
    """diffusers' networks by their parts' names, with a checkpoint's weights as far as it has them."""
    first_stage, diffused = params.first_stage_config.params, params.unet_config.params
    vqvae = autoencoder.build(first_stage, params.scale_factor)
    weights.fill(vqvae, "first_stage_model.", autoencoder.naming(first_stage))
    network = unet.build(diffused)
    weights.fill(network, UNET, unet.naming(diffused))
    made = {"vqvae": vqvae, "unet": network}
    if params.cond_stage_config is not None:
        condition = params.cond_stage_config.params
        with torch.device("meta"):
            embedder = ClassEmbedder(condition.n_classes or IMAGENET, condition.embed_dim)
        weights.fill(embedder, "cond_stage_model.", Origin)
        made["class_embedder"] = embedder
    return made


def write(parts: dict[str, Any], params: Diffusion, origin: str, folder: Path) -> str:
    """Write a pipeline; the name of its class.

    Args:
        parts: the networks.
        params: the config's.
        origin: where the weights come from, for the model card.
        folder: where.
    """
    if params.cond_stage_config is None:
        pipeline = diffusers.LDMPipeline(**parts, scheduler=scheduler(params))
        snippet, shipped = card.UNCONDITIONAL, {}
    else:
        classes = params.cond_stage_config.params.n_classes
        null_class = None if classes is None else classes - 1
        pipeline = ClassLatentPipeline(**parts, scheduler=scheduler(params), null_class=null_class)
        snippet, shipped = card.CLASS_CONDITIONAL, {"": class_latent, "class_embedder": class_embedder}
    text = CARD.format(origin=origin, snippet=snippet.format(steps=STEPS, file="class_latent.py"))
    save(pipeline, folder, text, shipped)
    return str(type(pipeline).__name__)
