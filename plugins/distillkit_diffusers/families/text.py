"""The base class of text-conditional families: prompts as classes, and the latents of an autoencoder."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any, ClassVar, cast

import diffusers
import torch

from distillkit import distributed
from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Export, GuidanceInput
from distillkit.noise import Condition
from distillkit_diffusers import components, frozen, libraries, networks
from distillkit_diffusers.export import model_card, save_over, text_conditional
from distillkit_diffusers.families.family import Family, with_scales
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.frozen import Autoencoder
from distillkit_diffusers.options import PROMPT_OPTIONS, check_prompts, read_prompts
from distillkit_diffusers.reading import read_json
from distillkit_diffusers.times import Sampling

_logger = logging.getLogger(__name__)

SLICE = 8
"""The number of prompts that are encoded at once."""


class Text(Family):
    """A network on the latents of an `AutoencoderKL` that is conditioned on texts; a subclass reads its noise path.

    Class i is prompt i, and "no class" is the negative prompt. `load` encodes all of them with the pipeline's own
    `encode_prompt`, and then frees the text encoders. An export copies all parts but the network and the scheduler.
    """

    pipeline: ClassVar[str]
    """The pipeline's class in diffusers."""
    stock_guidance: ClassVar[float]
    """The default guidance scale of diffusers' pipeline."""
    for_encoding: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of the pipeline that encodes the prompts."""
    takes = PROMPT_OPTIONS
    scale_key: ClassVar[str] = ""
    """The key in the network's config of an input for the guidance scale, which guidance-distilled networks have."""

    def check(self) -> Iterator[Mistake]:
        """Adds mistakes in the prompts, and missing parts that an export would copy."""
        yield from super().check()
        yield from check_prompts(self.options, self.what)
        if self.folder is not None:
            yield from components.check(self.folder, self.parts)
            if self.options.negative_prompt is not None and self.takes_scale(self.folder):
                yield Mistake(
                    "negative_prompt",
                    f"has no effect: the network in {self.folder.part(self.distilled)} takes the guidance scale as an "
                    "input, and is not compared with a negative prompt; leave it out",
                )

    def takes_scale(self, folder: PipelineFolder) -> bool:
        """Whether the network takes the guidance scale as an input; its config does not say in which range."""
        file = folder.part(self.distilled) / "config.json"
        return file.is_file() and bool(read_json(file).get(self.scale_key))

    def default_guidance(self, folder: PipelineFolder) -> float:
        """That of diffusers' pipeline, as folders do not have one."""
        return self.stock_guidance

    def load(self) -> None:
        """Load the network and the autoencoder, and encode the prompts."""
        network_folder = self.saved.part(self.distilled)
        network_class = getattr(diffusers, self.parts[self.distilled][0])
        self.network = networks.load(self.saved.weights(self.distilled), network_class)
        self.config = networks.config(self.network)
        self.autoencoder = Autoencoder.load(self.saved.weights("vae"))
        channels = self.autoencoder.channels
        if self.channels != channels:
            raise DistillkitError(
                f"model.path: the autoencoder in {self.saved.part('vae')} makes latents of {channels} channels, and "
                f"the network in {network_folder} takes {self.channels}"
            )
        self.sample_shape = (channels, *cast(tuple[int, int], self.latent_size(self.saved)))
        self.scheduler = self.scheduler_config()
        self.read_scheduler()
        if self.takes_scale(self.saved):
            self.guidance_input = GuidanceInput(0.0, inf, new=False)
        self._encode_prompts()

    @abstractmethod
    def read_scheduler(self) -> None:
        """Set `path` and `prediction` from `scheduler`."""

    @property
    def channels(self) -> int:
        """The number of channels of the latents that the network takes."""
        return int(self.config["in_channels"])

    def factor(self, folder: PipelineFolder) -> int:
        """The height of a picture over that of its latents, before the autoencoder is loaded."""
        # Without block_out_channels, diffusers' default is one block.
        return 1 << folder.levels("vae", 1) - 1

    def multiple(self, folder: PipelineFolder) -> int:
        """The pictures' height and width must be multiples of this."""
        return max(8, self.factor(folder))

    def latent_size(self, folder: PipelineFolder) -> tuple[int, int] | None:
        """That of the option `size`, if it is given."""
        size = self.options.size
        if size is None:
            return super().latent_size(folder)
        height, width = (size, size) if isinstance(size, int) else size
        return height // self.factor(folder), width // self.factor(folder)

    def check_size(self, folder: PipelineFolder) -> Iterator[Mistake]:
        """Mistakes in the pictures' size."""
        if not all((folder.part(part) / "config.json").is_file() for part in (self.distilled, "vae")):
            return
        latents, size, multiple = self.latent_size(folder), self.options.size, self.multiple(folder)
        if latents is None:
            yield Mistake("size", "is required: the network's config does not say the pictures' size")
            return
        height, width = (self.factor(folder) * length for length in latents)
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
        if height % multiple or width % multiple:
            yield Mistake("size", f"{height} × {width}; {self.what} takes multiples of {multiple} pixels")

    def _encode_prompts(self) -> None:
        encoders = {name: classes[0] for name, classes in self.parts.items() if name.startswith("text_encoder")}
        others = {self.distilled: self.network, **self.for_encoding}
        pipeline = frozen.load_text_encoders(self.saved, getattr(diffusers, self.pipeline), encoders, others)
        self.prompts = read_prompts(self.options)
        self.classes = len(self.prompts)
        # Of prompts that are cut they warn for every batch, and `cut_prompts` once.
        with torch.no_grad(), libraries.quiet():
            cut = [*frozen.cut_prompts(pipeline, self.prompts)]
            # Row 0 is the class −1.
            parts = [_kept(self.embed_negative(pipeline, self.options.negative_prompt))]
            for start in range(0, self.classes, SLICE):
                parts.append(_kept(self.embed(pipeline, self.prompts[start : start + SLICE])))
        for sentence in cut if distributed.is_main_process() else ():
            _logger.warning("model.prompts: %s", sentence)
        self._rows = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    @abstractmethod
    def embed(self, pipeline: Any, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """The network's inputs for prompts, each [len(texts), …], from the pipeline's `encode_prompt`."""

    @abstractmethod
    def embed_negative(self, pipeline: Any, text: str | None) -> Mapping[str, torch.Tensor]:
        """The same for the negative prompt, each [1, …]; None is the pipeline's default."""

    def condition(self, labels: torch.Tensor | None, count: int, guidance: torch.Tensor | None = None) -> Condition:
        """The embeddings of prompts, −1 for the negative one, and the scale, if the network takes it."""
        if labels is None:
            labels = torch.full((count,), -1)
        if labels.max() >= len(self.prompts):
            raise DistillkitError(f"class {int(labels.max())}: the model has the prompts 0 to {len(self.prompts) - 1}")
        inputs = {key: rows[labels + 1] for key, rows in self._rows.items()}
        null = {key: rows[torch.zeros_like(labels)] for key, rows in self._rows.items()}
        return with_scales(Condition(inputs, null), self.guidance_input, count, guidance)

    def forward(
        self, network: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Call the network."""
        output: torch.Tensor = network(z, timestep=t, **self.arguments(inputs), return_dict=False)[0]
        return output

    def arguments(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """A condition's inputs as arguments of the network."""
        return dict(inputs)

    @property
    def supports_guidance(self) -> bool:
        """True: the negative prompt is the null condition."""
        return True

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images -> latents."""
        return self.autoencoder.encode(images)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Latents -> images."""
        return self.autoencoder.decode(samples)

    def export(self, network: torch.nn.Module, folder: Path, export: Export) -> None:
        """Write the pipeline with another network and another scheduler."""
        scheduler, sampling = self.write_scheduler(export)
        handed = {} if export.several else sampling.times
        steps = handed.get(export.steps, {"num_inference_steps": export.steps})
        snippet = text_conditional(self.prompts[0], {**steps, **self.call(export)})
        taken = self.guidance_input
        scales = None if taken is None else (taken.low, taken.high)
        stock = getattr(diffusers, self.pipeline)
        text = model_card(export, stock, snippet, sampling, scales, "text-to-image")
        save_over(self.saved, {self.distilled: network, "scheduler": scheduler}, folder, text)

    def call(self, export: Export) -> dict[str, Any]:
        """The pipeline's arguments, besides a prompt and the steps, for sampling as it was trained."""
        height, width = (length * self.autoencoder.factor for length in self.sample_shape[1:])
        return self.guide(export.guidance) | {"height": height, "width": width}

    def guide(self, scale: float) -> dict[str, Any]:
        """The pipeline's arguments for a guidance scale; 1 is none."""
        negative = self.options.negative_prompt
        used = scale != 1 and negative is not None and self.guidance_input is None
        return {"guidance_scale": scale} | ({"negative_prompt": negative} if used else {})

    @abstractmethod
    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """The scheduler for an export, and its description for the model card."""


def _kept(inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.float().cpu() for key, value in inputs.items()}
