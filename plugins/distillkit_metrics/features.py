"""Features for any data set: torch-fidelity's Inception network of FID, and pixels."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
import torch_fidelity.feature_extractor_inceptionv3

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces import Features


def load_inception(path: Path) -> torch.nn.Module:
    """The frozen network: uint8 images [B, 3, H, W] -> (features [B, 2048], logits without their bias [B, 1008]).

    Raises:
        DistillkitError: the file does not contain this network's weights.
    """
    try:
        # torch-fidelity unpickles the file without restrictions, so a file with more than tensors is refused here.
        torch.load(path, map_location="meta", weights_only=True)
        network: torch.nn.Module = torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DistillkitError(f"features.weights: {path} does not contain Inception's weights ({reason})") from error
    return network


FILE = "weights-inception-2015-12-05-6726825d.pth"
SOURCE = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"
PREPROCESSING = "torch-fidelity: 299 px, bilinear as TensorFlow 1, no antialiasing"


class Inception(Features):
    """2048 features and 1008 logits of the Inception v3 of 2015, for FID, KID and Inception Score as published."""

    name = "inception"
    default = True
    metric_suffix = ""

    class Options(Features.Options):
        """
        Attributes:
            weights: torch-fidelity's weights file. Default: the file in torch.hub's cache.
        """

        weights: Path | None = None

    options: Options

    @property
    def _weights(self) -> Path:
        if self.options.weights is not None:
            return self.options.weights
        # As torch.hub.get_dir(), but a check must not import torch.
        cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
        home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
        return Path(home).expanduser() / "hub" / "checkpoints" / FILE

    def check(self) -> Iterator[Mistake]:
        """The weights must exist: nothing is downloaded."""
        if not self._weights.is_file():
            yield Mistake(
                "weights",
                f"there is no file {self._weights}; download {SOURCE} to this path, or give the path of the file",
            )

    def setup(self, device: torch.device) -> None:
        """Load the network.

        Raises:
            DistillkitError: the file does not exist, or has other content.
        """
        for mistake in self.check():
            raise DistillkitError(f"features.{mistake}")
        self._network = load_inception(self._weights).to(device)
        self._hash = hashlib.sha256(self._weights.read_bytes() + PREPROCESSING.encode()).hexdigest()[:8]

    def extract(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """uint8 images [B, 1 or 3, H, W] -> features [B, 2048] and logits without their bias [B, 1008]."""
        with torch.no_grad():
            features, logits = self._network(images.expand(-1, 3, -1, -1))
        return features, logits

    @property
    def hash(self) -> str:
        """The hash of the weights file and the preprocessing; known after `setup`."""
        return self._hash


class Pixels(Features):
    """Every pixel is a feature. There is no network, and there are no classes."""

    name = "pixels"
    metric_suffix = "-pixels"

    def setup(self, device: torch.device) -> None:
        """Do nothing."""

    def extract(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """uint8 images [B, C, H, W] -> [B, C·H·W] in [−1, 1]."""
        return images.flatten(1).float() / 127.5 - 1, None

    @property
    def hash(self) -> str:
        """The hash of the formula."""
        return hashlib.sha256(b"x / 127.5 - 1").hexdigest()[:8]

    @property
    def has_logits(self) -> bool:
        """There are none."""
        return False
