"""Flux: flow matching by a `FluxTransformer2DModel` on tokens of 2×2 latents, conditioned on texts (CLIP, T5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from distillkit_diffusers.families.flow import FlowFamily
from distillkit_diffusers.families.text import Text
from distillkit_diffusers.folder import PipelineFolder


class Flux(FlowFamily, Text):
    """A FluxPipeline.

    A guidance-distilled network (`guidance_embeds` in its config: Flux dev) takes the scale as an input and guides in
    one evaluation. Any other (Flux schnell) uses classifier-free guidance: diffusers' `true_cfg_scale`.
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
    stock_guidance = 3.5
    scale_key = "guidance_embeds"

    def default_guidance(self, folder: PipelineFolder) -> float:
        """FluxPipeline's default for a guidance-distilled network; none for any other."""
        return super().default_guidance(folder) if self.takes_scale(folder) else 1.0

    def latent_size(self, folder: PipelineFolder) -> tuple[int, int] | None:
        """The config of the network does not say what the pipeline makes by default."""
        return super().latent_size(folder) or (128, 128)

    @property
    def channels(self) -> int:
        """A quarter of a token's, which has those of 2×2 latents."""
        return int(self.config["in_channels"]) // 4

    def multiple(self, folder: PipelineFolder) -> int:
        """The size of a token in pixels."""
        return 2 * self.factor(folder)

    def read_scheduler(self, length: int | None = None) -> None:
        """See the base class; `length` is the number of tokens of an image."""
        _, height, width = self.sample_shape
        super().read_scheduler((height // 2) * (width // 2))

    def embed(self, pipeline: Any, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """T5's hidden states; CLIP's pooled embedding."""
        hidden, pooled, _ = pipeline.encode_prompt(texts, device=pipeline.text_encoder.device)
        return {"encoder_hidden_states": hidden, "pooled_projections": pooled}

    def embed_negative(self, pipeline: Any, text: str | None) -> Mapping[str, torch.Tensor]:
        """Those of the negative prompt, which is empty by default."""
        return self.embed(pipeline, [text or ""])

    def guide(self, scale: float) -> dict[str, Any]:
        """`guidance_scale` for a guidance-distilled network; `true_cfg_scale` for any other."""
        if self.guidance_input is not None:
            return super().guide(scale)
        return {} if scale == 1 else {"true_cfg_scale": scale, "negative_prompt": self.options.negative_prompt or ""}

    def forward(
        self, network: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Call the transformer, whose times are from 0 to 1, on tokens and their positions."""
        height, width = z.shape[2] // 2, z.shape[3] // 2
        text_positions = z.new_zeros(inputs["encoder_hidden_states"].shape[1], 3)
        output: torch.Tensor = network(
            pack(z),
            timestep=t / self.path.times,
            img_ids=positions(height, width, z.device),
            txt_ids=text_positions,
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


def positions(height: int, width: int, device: torch.device) -> torch.Tensor:
    """The positions of tokens, [h·w, 3]: 0, row and column."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=1).float()
