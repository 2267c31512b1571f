"""The small classifier of Fashion-MNIST whose features score samples.

Shapes: B batch; 32×32 pictures of one channel; 128 features; 10 classes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from distillkit.errors import DistillkitError
from distillkit.interfaces import FeatureStatistics

DATA = Path(__file__).parent / "data"
WEIGHTS = DATA / "classifier.safetensors"
REFERENCE = DATA / "reference.safetensors"
PREPROCESSING = "grey, 28 px padded to 32 with black, x / 127.5 - 1"
"""What `prepare` does, as part of the network's identity."""


def prepare(images: Tensor) -> Tensor:
    """uint8 pictures [B, 1 or 3, H, W], 28 or 32 px -> what the network sees: [B, 1, 32, 32] in [−1, 1].

    Raises:
        DistillkitError: the pictures have another size.
    """
    if images.shape[-2:] == (28, 28):
        images = functional.pad(images, (2, 2, 2, 2))
    if images.shape[-2:] != (32, 32):
        height, width = images.shape[-2:]
        raise DistillkitError(
            f"features.type: 'fashion' sees pictures of 28×28 or 32×32 pixels, and these have {height}×{width}; "
            "choose other features"
        )
    return images.float().mean(1, keepdim=True) / 127.5 - 1


class Classifier(nn.Module):
    """Four convolutions and two linear layers; 0.21 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(1, 32, stride=2),
            *_block(32, 48, stride=1),
            *_block(48, 64, stride=2),
            *_block(64, 64, stride=2),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, 128),
            nn.ReLU(),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Prepared pictures [B, 1, 32, 32] -> features [B, 128] and class logits [B, 10]."""
        features = self.body(x)
        return features, self.head(features)


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def save_classifier(network: Classifier, path: Path) -> None:
    """Write the weights in half precision (the batch counters of the normalisation are whole numbers and stay)."""
    state = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    save_file(state, path)


def load_classifier(path: Path = WEIGHTS) -> Classifier:
    """The trained network in float32, frozen, in evaluation mode, on the CPU."""
    # Made on "meta", so that no random weights are drawn only to be overwritten.
    with torch.device("meta"):
        network = Classifier()
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False).eval()


def save_reference(statistics: FeatureStatistics, kept: Tensor, path: Path) -> None:
    """Write the statistics without their features, and some of these, `kept` [n, 128], in half precision."""
    tensors = {"mean": statistics.mean, "covariance": statistics.covariance, "features": kept.half()}
    save_file(tensors, path, {"count": str(statistics.count), "hash": statistics.hash})


def load_reference(path: Path = REFERENCE) -> FeatureStatistics:
    """The statistics that `save_reference` wrote, on the CPU."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        mean, covariance = file.get_tensor("mean"), file.get_tensor("covariance")
        features = file.get_tensor("features").float()
    return FeatureStatistics(mean, covariance, int(metadata["count"]), features, None, metadata["hash"])
