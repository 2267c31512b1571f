"""The configs of CompVis' published models, at their own size or small."""

from __future__ import annotations

import copy
from typing import Any

UNET = "model.params.unet_config.params"
FIRST_STAGE = "model.params.first_stage_config"
CONDITION = "model.params.cond_stage_config"


def config(classes: bool, small: bool) -> dict[str, Any]:
    """That of cin256-v2 (ImageNet, class-conditional), or that of CelebA-HQ and LSUN Bedroom, which are one.

    Args:
        classes: which.
        small: the same layers at a fraction of the width, for latents of 16×16 and pictures of 64×64.
    """
    unet: dict[str, Any] = {
        "image_size": 16 if small else 64,
        "in_channels": 3,
        "out_channels": 3,
        "model_channels": 32 if small else 192 if classes else 224,
        "attention_resolutions": [8, 4, 2],
        "num_res_blocks": 2,
        "channel_mult": [1, 2, 3, 5] if classes else [1, 2, 3, 4],
    }
    width = 24 if small else 512
    if classes:
        unet |= {"num_heads": 1, "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": width}
    else:
        unet["num_head_channels"] = 16 if small else 32
    decoder = {
        "double_z": False,
        "z_channels": 3,
        "resolution": 64 if small else 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32 if small else 128,
        "ch_mult": [1, 2, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    embedder = {"n_classes": 11 if small else 1001, "embed_dim": width, "key": "class_label"}
    params = {
        "linear_start": 0.0015,
        "linear_end": 0.0195,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "image",
        "cond_stage_key": "class_label",
        "image_size": unet["image_size"],
        "channels": 3,
        "monitor": "val/loss",
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": {
            "target": "ldm.models.autoencoder.VQModelInterface",
            "params": {
                "embed_dim": 3,
                "n_embed": 64 if small else 8192,
                "monitor": "val/rec_loss",
                "ddconfig": decoder,
                "lossconfig": {"target": "torch.nn.Identity"},
            },
        },
        "cond_stage_config": "__is_unconditional__",
    }
    if classes:
        target = "ldm.modules.encoders.modules.ClassEmbedder"
        params |= {"conditioning_key": "crossattn", "cond_stage_config": {"target": target, "params": embedder}}
    return {
        "model": {
            "base_learning_rate": 2.0e-06,
            "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
            "params": params,
        },
        "data": {"target": "main.DataModuleFromConfig", "params": {"batch_size": 48}},
    }


def tiny_class_conditional() -> dict[str, Any]:
    """cin256-v2's config with two levels, for latents of 8×8 and pictures of 16×16."""
    content = config(classes=True, small=True)
    params = content["model"]["params"]
    params["unet_config"]["params"] |= {
        "image_size": 8,
        "num_res_blocks": 1,
        "channel_mult": [1, 2],
        "attention_resolutions": [2],
    }
    params["first_stage_config"]["params"]["ddconfig"] |= {"resolution": 16, "ch_mult": [1, 2], "num_res_blocks": 1}
    return content


def changed(content: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A config with other values, keys being dotted; ... takes one away."""
    content = copy.deepcopy(content)
    for key, value in values.items():
        *path, last = key.split(".")
        table = content
        for part in path:
            table = table[part]
        if value is ...:
            del table[last]
        else:
            table[last] = value
    return content
