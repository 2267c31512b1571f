"""Stable Diffusion: U-Nets (1, 2 and XL) and a transformer (3) that are conditioned on texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import diffusers.models.embeddings as embeddings
import torch

from distillkit.errors import DistillkitError, Mistake
from distillkit.noise import GUIDANCE
from distillkit_diffusers.families.flow import FlowFamily
from distillkit_diffusers.families.table import TableFamily
from distillkit_diffusers.families.text import Text
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.reading import read_json
from distillkit_diffusers.scheduler_values import shown


class TextUnet(TableFamily, Text):
    """A `UNet2DConditionModel` conditioned on texts. A guidance-distilled one (LCM's) takes the scale as an input."""

    scale_key = "time_cond_proj_dim"

    def arguments(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """With the scale s as sinusoids of 1000 w, where w = s − 1, as in the pipelines."""
        found = super().arguments(inputs)
        if self.guidance_input is not None:
            w = found.pop(GUIDANCE) - 1
            features = self.config["time_cond_proj_dim"]
            found["timestep_cond"] = embeddings.get_timestep_embedding(1000 * w, features, downscale_freq_shift=1)
        return found


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

    overwritten: ClassVar[Mapping[str, Any]] = {"clip_sample": False, "steps_offset": 1}
    """The two fields that the pipeline overwrites in its scheduler."""

    def check(self) -> Iterator[Mistake]:
        """Adds fields that are given, and that the pipeline would overwrite."""
        mistakes = [*super().check()]
        yield from mistakes
        given = self.options.scheduler
        for key, value in self.overwritten.items():
            if given.get(key, value) != value and f"scheduler.{key}" not in (mistake.key for mistake in mistakes):
                yield Mistake(
                    f"scheduler.{key}",
                    f"is {shown(given[key])}, which a {self.pipeline} overwrites with {shown(value)}; leave it out",
                )

    def scheduler_config(self) -> dict[str, Any]:
        """With the fields that the pipeline overwrites."""
        found = super().scheduler_config()
        return found and {**found, **self.overwritten}

    def embed(self, pipeline: Any, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """CLIP's last hidden states, [B, 77, 768] in Stable Diffusion 1."""
        return {"encoder_hidden_states": pipeline.encode_prompt(texts, pipeline.text_encoder.device, 1, False)[0]}

    def embed_negative(self, pipeline: Any, text: str | None) -> Mapping[str, torch.Tensor]:
        """Those of the negative prompt, which is empty by default."""
        negative = None if text is None else [text]
        found = pipeline.encode_prompt([""], pipeline.text_encoder.device, 1, True, negative)
        return {"encoder_hidden_states": found[1]}


class StableDiffusionXL(TextUnet):
    """A StableDiffusionXLPipeline. The size conditioning says that pictures are not cropped or rescaled."""

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
    }
    pipeline = "StableDiffusionXLPipeline"
    stock_guidance = 5.0

    def embed(self, pipeline: Any, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """Both encoders' second last hidden states, concatenated; the second one's pooled embedding; the size."""
        device = pipeline.text_encoder.device
        hidden, _, pooled, _ = pipeline.encode_prompt(texts, device=device, do_classifier_free_guidance=False)
        return self._inputs(hidden, pooled)

    def embed_negative(self, pipeline: Any, text: str | None) -> Mapping[str, torch.Tensor]:
        """The same of the negative prompt; zeros by default, if the pipeline's index says so."""
        found = pipeline.encode_prompt("", device=pipeline.text_encoder.device, negative_prompt=text)
        return self._inputs(found[1], found[3])

    def _inputs(self, hidden: torch.Tensor, pooled: torch.Tensor) -> Mapping[str, torch.Tensor]:
        size = [length * self.autoencoder.factor for length in self.sample_shape[1:]]
        # Original height and width, the crop's top and left, the target's height and width.
        time_ids = hidden.new_tensor([*size, 0, 0, *size]).expand(len(hidden), -1)
        return {"encoder_hidden_states": hidden, "text_embeds": pooled, "time_ids": time_ids}

    def arguments(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """With two of them in `added_cond_kwargs`."""
        found = super().arguments(inputs)
        return found | {"added_cond_kwargs": {key: found.pop(key) for key in ("text_embeds", "time_ids")}}


class StableDiffusion3(FlowFamily, Text):
    """A StableDiffusion3Pipeline, with its T5."""

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
        """See the base class; `length` is the number of patches of an image."""
        _, height, width = self.sample_shape
        patch = self.config["patch_size"]
        super().read_scheduler((height // patch) * (width // patch))

    def multiple(self, folder: PipelineFolder) -> int:
        """The size of a patch in pixels."""
        return self.factor(folder) * self._number(folder, "patch_size", 2)

    def check_size(self, folder: PipelineFolder) -> Iterator[Mistake]:
        """Adds a size for which the network has no positions."""
        mistakes = [*super().check_size(folder)]
        yield from mistakes
        if not mistakes and (size := self.latent_size(folder)) is not None:
            most = self._number(folder, "pos_embed_max_size", 96) * self.multiple(folder)
            if max(size) * self.factor(folder) > most:
                yield Mistake("size", f"the network knows positions for {most} pixels at most")

    def _number(self, folder: PipelineFolder, key: str, default: int) -> int:
        """A whole number in the network's config."""
        file = folder.part(self.distilled) / "config.json"
        found = read_json(file).get(key, default)
        if not isinstance(found, int) or found < 1:
            raise DistillkitError(f"{file}: {key} must be a whole number above 0 (got {found!r})")
        return found

    def embed(self, pipeline: Any, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """The CLIPs' hidden states, followed by T5's; the CLIPs' pooled embeddings."""
        device = pipeline.text_encoder.device
        found = pipeline.encode_prompt(texts, None, None, device=device, do_classifier_free_guidance=False)
        return {"encoder_hidden_states": found[0], "pooled_projections": found[2]}

    def embed_negative(self, pipeline: Any, text: str | None) -> Mapping[str, torch.Tensor]:
        """The same of the negative prompt, which is empty by default."""
        found = pipeline.encode_prompt("", None, None, device=pipeline.text_encoder.device, negative_prompt=text)
        return {"encoder_hidden_states": found[1], "pooled_projections": found[3]}
