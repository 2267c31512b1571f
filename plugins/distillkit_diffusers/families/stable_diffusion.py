"""Stable Diffusion 1 and 2: a `UNet2DConditionModel` that looks at CLIP's embedding of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from distillkit_diffusers.families.text_unet import TextUnet


class StableDiffusion(TextUnet):
    """A StableDiffusionPipeline, of ε- or v-prediction."""

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
    }
    pipeline = "StableDiffusionPipeline"
    stock_guidance = 7.5
    for_encoding: ClassVar[Mapping[str, Any]] = {"requires_safety_checker": False}

    def embed(self, pipeline: Any, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """CLIP's last hidden states, [B, 77, 768] in Stable Diffusion 1."""
        return {"encoder_hidden_states": pipeline.encode_prompt(texts, pipeline.text_encoder.device, 1, False)[0]}

    def embed_negative(self, pipeline: Any, text: str | None) -> Mapping[str, torch.Tensor]:
        """Those of the empty prompt, if there is no other."""
        negative = None if text is None else [text]
        found = pipeline.encode_prompt([""], pipeline.text_encoder.device, 1, True, negative)
        return {"encoder_hidden_states": found[1]}
