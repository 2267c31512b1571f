"""Flux: flow matching by a `FluxTransformer2DModel` on latents of 2×2 in a token, told a text by a CLIP and a T5."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, ClassVar

import torch

from distillkit.interfaces import GuidanceInput
from distillkit_diffusers.families.flow import FlowFamily
from distillkit_diffusers.families.text import Text
from distillkit_diffusers.folder import PipelineFolder, read_json


class Flux(FlowFamily, Text):
    """A FluxPipeline.

    A guidance-distilled network (`guidance_embeds` in its config: Flux dev) takes the scale as an input and guides in
    one evaluation. Any other (Flux schnell) is guided as usual, by the negative prompt: diffusers' `true_cfg_scale`.
    """

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "transformer": ("FluxTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("T5EncoderModel",),
    }
    distilled = "transformer"
    pipeline = "FluxPipeline"
    pipeline_spacing = "trailing"
    default_size = 128
    stock_guidance = 3.5

    def default_guidance(self, folder: PipelineFolder) -> float:
        """By its input for the scale; a network without one is not guided, if it is not told to."""
        written = read_json(folder.part(self.distilled) / "config.json")
        return super().default_guidance(folder) if written.get("guidance_embeds") else 1.0

    @property
    def channels(self) -> int:
        """A token has those of 2×2 latents."""
        return int(self.config["in_channels"]) // 4

    @property
    def multiple(self) -> int:
        """Whole tokens."""
        return 2 * self.autoencoder.factor

    def read_scheduler(self, length: int | None = None) -> None:
        """For as many tokens as an image has."""
        _, height, width = self.sample_shape
        super().read_scheduler((height // 2) * (width // 2))

    @property
    def guidance_input(self) -> GuidanceInput | None:
        """Of a guidance-distilled network; its config does not say for what scales it was made."""
        return GuidanceInput(0.0, inf, new=False) if self.config["guidance_embeds"] else None

    def embed(self, pipeline: Any, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """T5's hidden states; CLIP's pooled embedding."""
        hidden, pooled, _ = pipeline.encode_prompt(texts, device=pipeline.text_encoder.device)
        return {"encoder_hidden_states": hidden, "pooled_projections": pooled}

    def embed_negative(self, pipeline: Any, text: str | None) -> Mapping[str, torch.Tensor]:
        """Those of the empty prompt, if there is no other."""
        return self.embed(pipeline, [text or ""])

    def guide(self, scale: float) -> dict[str, Any]:
        """As what diffusers calls guidance, or as what it calls true guidance."""
        if self.guidance_input is not None:
            return super().guide(scale)
        return {} if scale == 1 else {"true_cfg_scale": scale, "negative_prompt": self.options.negative_prompt or ""}

    def forward(
        self, network: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Call the transformer, which counts times from 0 to 1, on tokens and their places."""

        height, width = z.shape[2] // 2, z.shape[3] // 2
        places_of_text = z.new_zeros(inputs["encoder_hidden_states"].shape[1], 3)
        output: torch.Tensor = network(
            pack(z),
            timestep=t / self.path.times,
            img_ids=places(height, width, z.device),
            txt_ids=places_of_text,
            **inputs,
            return_dict=False,
        )[0]
        return unpack(output, height, width)


def pack(latents: torch.Tensor) -> torch.Tensor:
    """Latents [B, C, 2h, 2w] -> tokens [B, h·w, 4C]."""
    batch, channels, height, width = latents.shape
    squares = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(batch, height * width // 4, 4 * channels)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tokens [B, h·w, 4C] -> latents [B, C, 2h, 2w]."""
    batch, _, channels = tokens.shape
    squares = tokens.reshape(batch, height, width, channels // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels // 4, 2 * height, 2 * width)


def places(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Where tokens are: [h·w, 3], of 0, row and column."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=1).float()
