"""The parts of a pipeline that are not trained: its autoencoder, and its text encoders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import diffusers
import torch
import transformers

from distillkit.errors import DistillkitError
from distillkit_diffusers import libraries, networks
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.headers import Weights
from distillkit_diffusers.reading import read_json

AT_ONCE = 512 * 512
"""Pixels to encode or decode at once (at least one image): activations at full size dominate the memory."""

LONGEST = 1_000_000
"""Tokens of a text; transformers writes 10^30 where a tokenizer does not say how many it takes."""


class Autoencoder:
    """Images in [−1, 1] <-> the latents that a diffusion network works on, (h − shift)·scaling_factor of its own h.

    Of a `VQModel` h is the latent before quantisation, and decoding quantises; of an `AutoencoderKL` it is
    the posterior's mean. No gradient passes through.

    Args:
        network: in evaluation mode, without gradients.
        scaling_factor: overrides the config's, also in an export; None: the config's own.
    """

    def __init__(
        self, network: diffusers.VQModel | diffusers.AutoencoderKL, scaling_factor: float | None = None
    ) -> None:
        self.network = network
        if scaling_factor is not None:
            network.register_to_config(scaling_factor=scaling_factor)
        self._scale = float(network.config["scaling_factor"])
        self._shift = float(network.config.get("shift_factor") or 0.0)

    @classmethod
    def load(cls, weights: Weights, scaling_factor: float | None = None) -> Autoencoder:
        """Load from the autoencoder's files.

        A `VQModel` whose config.json has no `scaling_factor` is from before diffusers' LDMPipeline divided by one
        (diffusers #5213): its factor is 1. diffusers itself would take 0.18215 (diffusers #6725).
        """
        config = read_json(weights.folder / "config.json")
        network_class = {"VQModel": diffusers.VQModel, "AutoencoderKL": diffusers.AutoencoderKL}[config["_class_name"]]
        if scaling_factor is None and network_class is diffusers.VQModel and "scaling_factor" not in config:
            scaling_factor = 1.0
        return cls(networks.load_frozen(weights, network_class), scaling_factor)

    @property
    def channels(self) -> int:
        """The number of channels of the latents."""
        config: dict[str, Any] = self.network.config
        return int(config.get("vq_embed_dim") or config["latent_channels"])

    @property
    def factor(self) -> int:
        """The height of an image over that of its latents; the same for the width."""
        return 1 << len(self.network.config["block_out_channels"]) - 1

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] -> latents [B, c, h, w] on the images' device."""
        parts = torch.split(images.to(self.network.device), self._slice(images))
        with torch.no_grad():
            return torch.cat([self._encode(part) for part in parts]).to(images.device)

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        encoded = self.network.encode(images)
        latents: torch.Tensor = (
            encoded.latents if isinstance(self.network, diffusers.VQModel) else encoded.latent_dist.mean
        )
        return (latents - self._shift) * self._scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [B, c, h, w] -> images [B, C, H, W] on the latents' device, to which the autoencoder is moved."""
        self.network.to(latents.device)
        whole = latents / self._scale + self._shift
        parts = torch.split(whole, self._slice(latents, self.factor))
        with torch.no_grad():
            return torch.cat([self.network.decode(part, return_dict=False)[0] for part in parts])

    def _slice(self, batch: torch.Tensor, factor: int = 1) -> int:
        """The number of samples of a batch to process at once; `factor` as above."""
        return max(1, AT_ONCE // (batch.shape[-2] * batch.shape[-1] * factor**2))


def cut_prompts(pipeline: Any, prompts: Sequence[str]) -> Iterator[str]:
    """Sentences on prompts that are longer than the tokenizers of a pipeline of text encoders let through."""
    said = set()
    longest = signature(pipeline.encode_prompt).parameters.get("max_sequence_length")
    of_t5 = (transformers.T5Tokenizer, transformers.T5TokenizerFast)
    for name, tokenizer in pipeline.components.items():
        if name.startswith("tokenizer"):
            # Pipelines pad T5's texts to a length of their own.
            most = tokenizer.model_max_length
            if longest is not None and isinstance(tokenizer, of_t5):
                most = longest.default
            cut = sum(len(tokens) > most for tokens in tokenizer(list(prompts)).input_ids)
            if cut and (most, cut) not in said:
                said.add((most, cut))
                yield f"{cut} of {len(prompts)} prompts have more than {most} tokens, and {name} cuts off the rest"


def load_text_encoders(
    folder: PipelineFolder, pipeline_class: Any, encoders: Mapping[str, str], others: Mapping[str, Any]
) -> Any:
    """Load only those parts of a pipeline that encode prompts. Its encoders are on a GPU, if there is one.

    They are in the precision of their files: T5-XXL takes 19 GB in float32, and half of that as it is published.

    Args:
        folder: the pipeline's.
        pipeline_class: one of diffusers'.
        encoders: the names of its text encoders, and the class of each in transformers.
        others: further arguments of the pipeline. Parts that are neither here nor tokenizers are None.

    Raises:
        DistillkitError: encoders or tokenizers cannot be loaded.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = {
        part: networks.load_frozen(folder.weights(part), getattr(transformers, name), as_saved=True).to(device)
        for part, name in encoders.items()
    }
    taken = signature(pipeline_class.__init__).parameters
    nothing = {part: None for part in folder.components if part in taken and not part.startswith("tokenizer")}
    try:
        # What they warn of is in the teacher's index, and not to be mended here.
        with libraries.quiet():
            made = pipeline_class.from_pretrained(folder.path, **nothing | loaded | dict(others), local_files_only=True)
    # They raise whatever the libraries below them do.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DistillkitError(f"model.path: diffusers cannot load the tokenizers in {folder.path}: {reason}") from error
    for name, tokenizer in made.components.items():
        if isinstance(tokenizer, transformers.CLIPTokenizer) and tokenizer.model_max_length > LONGEST:
            raise DistillkitError(
                f"model.path: {folder.path / name}: has no tokenizer_config.json that gives model_max_length, the "
                "number of tokens to which texts are padded; get the folder anew"
            )
    return made
