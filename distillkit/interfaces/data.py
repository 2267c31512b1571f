"""Data sets, from which some sources draw."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch

from distillkit.errors import DistillkitError
from distillkit.interfaces.model import Model
from distillkit.interfaces.stateful import Stateful


class Data(Stateful):
    """A set of images."""

    @abstractmethod
    def setup(self) -> None:
        """Open or read the images. Called once.

        Raises:
            DistillkitError: there are none, or they cannot be read.
        """

    @property
    @abstractmethod
    def classes(self) -> int | None:
        """How many classes the labels are of, counted from 0; None without labels. Known once it is set up."""

    @property
    def class_names(self) -> Sequence[str] | None:
        """Optional. The classes' names, in their order; None if they have none. Known once it is set up."""
        return None

    @property
    def streamed(self) -> bool:
        """Optional. Whether the images are read one after another. Such data are no reference for scores, which needs
        all images. Known before they are set up."""
        return False

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are; of streamed ones, how many can be asked for at the moment."""

    def seek(self, seed: int, sample: int) -> None:
        """Optional. Called before each draw, for images that are read one after another.

        Args:
            seed: the run's.
            sample: how many samples all processes have drawn in the run before. Images that depend on (seed, sample)
                alone are the same in a resumed run.
        """

    def draw(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Optional. The indices of images for `count` samples, [count] (int64): any images, if it is not overridden.

        Called in all processes with the same arguments. Each asks `batch` for its own share of the indices.
        """
        return torch.randint(len(self), (count,), generator=generator)

    @abstractmethod
    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, C, H, W] in [−1, 1] (float32) and labels [B] (int64; None if there are none) at indices [B]."""

    def check_shape(self, model: Model) -> None:
        """Once both are set up: the images must be as large as what the model makes.

        Raises:
            DistillkitError: they are not.
        """
        images, _ = self.batch(torch.tensor([0]))
        if (found := tuple(model.encode(images).shape[1:])) != tuple(model.spec.sample_shape):
            raise DistillkitError(
                f"data: the images of '{self.name}' make samples of {found} (channels, height, width), and the model "
                f"takes {tuple(model.spec.sample_shape)}; give it images of its own size"
            )
