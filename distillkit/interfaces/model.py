"""The network, its noise path, its encoder and decoder, and how to save it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from distillkit.component import Component
from distillkit.errors import DistillkitError
from distillkit.interfaces.student import StudentTable
from distillkit.noise import Condition, NoisePath, PredictionType

Sampler = Literal["ddim", "consistency"]
"""How a network is sampled: "ddim", or "consistency" (jump to clean data, add noise of the next time, jump again)."""


@dataclass(frozen=True)
class GuidanceInput:
    """A network's input for the guidance scale s (1 is none; Meng et al. write w = s − 1).

    Attributes:
        low, high: the scales that it is made for.
        new: whether it is still zero, so that the network does not know yet what it means.
    """

    low: float
    high: float
    new: bool


@dataclass(frozen=True)
class Inventory:
    """What a model's files say of it before it is loaded, for estimates and choices.

    Attributes:
        what: what kind of thing it is, in a word ("DiTPipeline").
        parameters: of the network that is distilled.
        frozen: parameters of the parts that stay beside it in memory (an autoencoder).
        size: height times width of the samples that the network sees; None if the files do not say.
        guidance: the scale s at which its own pipeline samples where it is not told another (1: none).
        adapter: parameters of the student's adapter; 0 without one.
    """

    what: str
    parameters: int
    frozen: int
    size: int | None
    guidance: float
    adapter: int = 0


@dataclass(frozen=True)
class Export:
    """What an exported pipeline must say about itself, besides its weights.

    Attributes:
        steps: the number of sampling steps it was made for.
        served: every number of steps it was evaluated at.
        guidance: the guidance scale s it was made for (1 is none).
        method: the method that made it (a preset's name).
        teacher: what it was made from.
        scores: rows of scores.json.
        settings: the resolved config.
        sampler: how it is sampled, which the pipeline's scheduler must do.
    """

    steps: int
    served: Sequence[int]
    guidance: float
    method: str
    teacher: str
    scores: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    sampler: Sampler = "ddim"


class Model(Component):
    """One network that a run starts from, and what it needs around it.

    After `load` the attributes below are set.
    """

    kept: ClassVar[frozenset[str]] = frozenset()
    """Options that an exported pipeline needs again, as it does not hold them: what the network is told (prompts)."""

    network: torch.nn.Module
    """The network, float32, on the CPU."""
    path: NoisePath
    """Its noise path, with the config's grids (see `set_grid`)."""
    prediction: PredictionType
    """What its output means."""
    sample_shape: tuple[int, int, int]
    """(C, H, W) of the samples that the network sees."""
    classes: int | None
    """How many classes it is conditioned on; None if unconditional."""

    def inventory(self, student: StudentTable | None = None) -> Inventory | None:
        """What its files say of it, without loading it; None if that is not known. Must not import torch.

        Args:
            student: the config's `[student]`.
        """
        return None

    @abstractmethod
    def load(self) -> None:
        """Load or build the network. Called once, before anything below.

        Raises:
            DistillkitError: it is not there, or not what this class can load.
        """

    def adapt(self, student: StudentTable) -> None:
        """Give the network an adapter, whose weights are from now on the only ones that need a gradient.

        Called after `load`, if the config has a `[student]`. Until the adapter is trained, the network's outputs are
        what they were, to the bit. A model that has this also has `export_adapter`, and fuses in `export`.

        Raises:
            DistillkitError: the model takes no adapter, or not this one.
        """
        raise DistillkitError(f"student: the model '{self.name}' takes no adapter; leave out [student]")

    @abstractmethod
    def set_grid(self, spacing: str, start: int | str | None) -> None:
        """Set the grids that `path` gives: spacing, and the noisiest time ("auto", a time, or None for the last)."""

    @abstractmethod
    def forward(
        self, network: torch.nn.Module, z: torch.Tensor, t: torch.Tensor, inputs: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """Call `network` (this model's, or one of the same make): z [B, C, H, W], t [B] -> output [B, C, H, W]."""

    @abstractmethod
    def condition(self, labels: torch.Tensor | None, count: int, guidance: torch.Tensor | None = None) -> Condition:
        """The condition for `count` samples.

        Args:
            labels: classes, [count] (int64), −1 for "no class"; None if there are none.
            guidance: guidance scales s, [count]; None for no guidance.

        Raises:
            DistillkitError: the network cannot do that.
        """

    def draw_condition(self, count: int, guidance: torch.Tensor | None, generator: torch.Generator) -> Condition:
        """Conditions for samples of the model's own: classes drawn evenly."""

        labels = None
        if self.classes is not None:
            labels = torch.randint(self.classes, (count,), generator=generator)
        return self.condition(labels, count, guidance)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images in [−1, 1] -> samples [B, C, H, W]. Pixel-space models: the images themselves."""
        return images

    def decode(self, samples: torch.Tensor) -> torch.Tensor:
        """Samples [B, C, H, W] -> images in about [−1, 1]. Pixel-space models: the samples themselves."""
        return samples

    @property
    @abstractmethod
    def supports_guidance(self) -> bool:
        """Whether the model has a null condition, so that classifier-free guidance is possible."""

    @property
    def guidance_input(self) -> GuidanceInput | None:
        """The network's input for the guidance scale; None if it has none. `condition` makes one of a scale then."""
        return None

    @property
    def sampler(self) -> Sampler:
        """How the model was made to be sampled, as an exported pipeline's scheduler says."""
        return "ddim"

    @property
    def samplers(self) -> Sequence[Sampler]:
        """How a student of it can be sampled by what `export` writes."""
        return ("ddim", "consistency")

    @property
    def untrained(self) -> bool:
        """Whether the network is a new one, which is no teacher to compare a student with."""
        return False

    @property
    @abstractmethod
    def label(self) -> str:
        """What the model is called in a model card and a table (its path, say)."""

    @abstractmethod
    def export(self, network: torch.nn.Module, folder: Path, export: Export) -> None:
        """Write `network` (float32, on the CPU) as a pipeline that diffusers loads without distillkit.

        The folder does not exist yet. It is renamed to its final path once it is complete.
        If it has an adapter, that is fused: added to the weights beside it, in place, as nobody else has `network`.
        """

    def export_adapter(self, network: torch.nn.Module, folder: Path) -> None:
        """Write the adapter of `network` (float32, on the CPU) alone, for whoever has the weights it was made for."""
        raise NotImplementedError
