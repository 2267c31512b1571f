"""scikit-learn's handwritten digits: 1797 real pictures of 8×8, with no download."""

from __future__ import annotations

import torch

from distillkit.interfaces import Data


class Digits(Data):
    """Digits 0 to 9, one channel, 8×8. Needs scikit-learn, which MLflow installs."""

    name = "digits"

    def setup(self) -> None:
        """Read the pictures from scikit-learn."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self._images = torch.from_numpy(bunch.images).float().div(8).sub(1).unsqueeze(1)
        self._labels = torch.from_numpy(bunch.target).long()

    @property
    def classes(self) -> int:
        """10."""
        return 10

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B, 1, 8, 8] in [−1, 1] and labels [B]."""
        return self._images[indices], self._labels[indices]
