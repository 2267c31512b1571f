"""Class-conditional diffusion transformers on an autoencoder's latents (DiT; Peebles & Xie 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import diffusers
import diffusers.models.embeddings as embeddings
import torch

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Export
from distillkit_diffusers import networks
from distillkit_diffusers.export import DIT, model_card, save
from distillkit_diffusers.families.table import TableFamily
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.frozen import Autoencoder
from distillkit_diffusers.reading import read_json
from distillkit_diffusers.times import has_own

CLASSES = 1000
"""The null class that DiTPipeline uses for every network: ImageNet's."""


class Dit(TableFamily):
    """A `DiTTransformer2DModel` that a DiTPipeline samples.

    If the network outputs twice as many channels as it takes, the second half is the variance of a DDPM step.
    Deterministic steps ignore it, as DiTPipeline does.
    """

    # The class's name before diffusers 0.29.
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "transformer": ("DiTTransformer2DModel", "Transformer2DModel"),
        "vae": ("AutoencoderKL",),
    }
    distilled = "transformer"
    takes = frozenset({"scaling_factor"})

    def default_guidance(self, folder: PipelineFolder) -> float:
        """DiTPipeline's default, if it can guide the network."""
        config = read_json(folder.part("transformer") / "config.json")
        return 4.0 if config.get("num_embeds_ada_norm") == CLASSES else 1.0

    def check_size(self, folder: PipelineFolder) -> Iterator[Mistake]:
        """See the base class."""
        config = folder.part("transformer") / "config.json"
        if not config.is_file() or (size := folder.sample_size("transformer")) is None:
            return
        patch = read_json(config).get("patch_size", 2)
        if not isinstance(patch, int) or patch < 1 or any(length % patch for length in size):
            written = " × ".join(map(str, size))
            yield Mistake("path", f"{config}: sample_size is {written}; expected multiples of patch_size ({patch!r})")

    def load(self) -> None:
        """Load the transformer and the autoencoder."""
        folder = self.saved.part("transformer")
        self.network = networks.load(self.saved.weights("transformer"), diffusers.DiTTransformer2DModel)
        self.scheduler = self.scheduler_config()
        self.read_scheduler()
        config = networks.config(self.network)
        self.sample_shape = networks.sample_shape(config)
        channels, made = config["in_channels"], config["out_channels"] or config["in_channels"]
        if made not in (channels, 2 * channels):
            raise DistillkitError(
                f"model.path: the network in {folder} makes {made} channels of {channels}; expected as many, or twice "
                "as many (with a variance)"
            )
        self._autoencoder = Autoencoder.load(self.saved.weights("vae"), self.options.scaling_factor)
        if (found := self._autoencoder.channels) != channels:
            raise DistillkitError(
                f"model.path: the autoencoder in {self.saved.part('vae')} makes latents of {found} channels, and the "
                f"network takes {channels}"
            )
        self.classes = config["num_embeds_ada_norm"]
        self.null_class = CLASSES if self.classes == CLASSES else None
        for module in self.network.modules():
            if isinstance(module, embeddings.LabelEmbedding):
                # In training mode each block would drop labels independently; `source.drop_labels` drops them for all.
                module.dropout_prob = 0

    def can_export(self, spacing: str) -> bool:
        """Not where times have to be handed to a DiTPipeline, whose call takes none."""
        return not has_own(spacing)

    def forward(
        self, network: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """The network's prediction, without the variance."""
        return super().forward(network, z, t, inputs)[:, : z.shape[1]]

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images -> latents."""
        return self._autoencoder.encode(images)

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Latents -> images."""
        return self._autoencoder.decode(samples)

    def export(self, network: torch.nn.Module, folder: Path, export: Export) -> None:
        """Write a DiTPipeline, with the autoencoder and the names of the classes unchanged."""
        scheduler, sampling = self.write_scheduler(export)
        pipeline = diffusers.DiTPipeline(network, self._autoencoder.network, scheduler)
        if (names := self.saved.index.get("id2label")) is not None:
            # diffusers does not save them.
            pipeline.register_to_config(id2label=names)
        save(pipeline, folder, model_card(export, pipeline, DIT, sampling))
