"""SDXL: a `UNet2DConditionModel` that is told two text encoders' embeddings of a text, and the picture's size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from distillkit_diffusers.families.text_unet import TextUnet


class StableDiffusionXL(TextUnet):
    """A StableDiffusionXLPipeline. Pictures are said to be whole ones of the size that is made: no crops."""

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
    }
    pipeline = "StableDiffusionXLPipeline"
    stock_guidance = 5.0

    def embed(self, pipeline: Any, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """Both encoders' last hidden states but one, side by side; the second one's pooled embedding; the size."""
        device = pipeline.text_encoder.device
        hidden, _, pooled, _ = pipeline.encode_prompt(texts, device=device, do_classifier_free_guidance=False)
        return self._inputs(hidden, pooled)

    def embed_negative(self, pipeline: Any, text: str | None) -> Mapping[str, torch.Tensor]:
        """The same; without a negative prompt zeros, where the pipeline's index says so."""
        found = pipeline.encode_prompt("", device=pipeline.text_encoder.device, negative_prompt=text)
        return self._inputs(found[1], found[3])

    def _inputs(self, hidden: torch.Tensor, pooled: torch.Tensor) -> Mapping[str, torch.Tensor]:
        size = [length * self.autoencoder.factor for length in self.sample_shape[1:]]
        # Original height and width, the crop's top and left, the target's height and width.
        time_ids = hidden.new_tensor([*size, 0, 0, *size]).expand(len(hidden), -1)
        return {"encoder_hidden_states": hidden, "text_embeds": pooled, "time_ids": time_ids}

    def arguments(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Two of them in a dictionary of their own."""
        found = super().arguments(inputs)
        return found | {"added_cond_kwargs": {key: found.pop(key) for key in ("text_embeds", "time_ids")}}
