"""Images and labels."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from distillkit.component import Component

if TYPE_CHECKING:
    from torch import Tensor


class Data(Component):
    """A set of images."""

    @abstractmethod
    def setup(self) -> None:
        """Open or read the images. Called once.

        Raises:
            DistillkitError: there are none, or they cannot be read.
        """

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images [B, C, H, W] in [−1, 1] (float32) and labels [B] (int64; None if there are none) at indices [B]."""
