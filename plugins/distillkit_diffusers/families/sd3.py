"""Stable Diffusion 3: flow matching by an `SD3Transformer2DModel`, told a text by two CLIPs and a T5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from distillkit.errors import DistillkitError
from distillkit_diffusers.families.straight import FlowFamily
from distillkit_diffusers.families.text import Text


class StableDiffusion3(FlowFamily, Text):
    """A StableDiffusion3Pipeline. diffusers does not load a folder without its T5, if it is not told to."""

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "transformer": ("SD3Transformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModelWithProjection",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "text_encoder_3": ("T5EncoderModel",),
    }
    distilled = "transformer"
    pipeline = "StableDiffusion3Pipeline"
    pipeline_spacing = "linspace"
    stock_guidance = 7.0

    def read_scheduler(self, length: int | None = None) -> None:
        """For as many tokens as there are patches."""
        _, height, width = self.sample_shape
        patch, most = self.config["patch_size"], self.config["pos_embed_max_size"]
        if max(height, width) > most * patch:
            raise DistillkitError(
                f"model.size: the network knows positions for {most * patch * self.autoencoder.factor} pixels at most"
            )
        super().read_scheduler((height // patch) * (width // patch))

    @property
    def multiple(self) -> int:
        """Whole patches."""
        return int(self.autoencoder.factor * self.config["patch_size"])

    def embed(self, pipeline: Any, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """The CLIPs' hidden states, and behind them T5's; the CLIPs' pooled embeddings."""
        device = pipeline.text_encoder.device
        found = pipeline.encode_prompt(texts, None, None, device=device, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": found[0], "pooled_projections": found[2]}

    def embed_negative(self, pipeline: Any, text: str | None) -> Mapping[str, torch.Tensor]:
        """The same of the empty prompt, if there is no other."""
        found = pipeline.encode_prompt("", None, None, device=pipeline.text_encoder.device, negative_prompt=text)
        return {"encoder_hidden_states": found[1], "pooled_projections": found[3]}
