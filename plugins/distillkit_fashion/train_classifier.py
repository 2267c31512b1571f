"""Trains the classifier whose features score samples, and writes the statistics of the training images in them.

    python -m distillkit_fashion.train_classifier --data FOLDER --output FOLDER

FOLDER holds Fashion-MNIST's four files (`train-images-idx3-ubyte.gz`, …), as in Debian's `dataset-fashion-mnist`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import time
from pathlib import Path

import click
import torch
from torch import Tensor
from torch.nn import functional

from distillkit.interfaces import FeatureStatistics
from distillkit.sampling import generator
from distillkit_fashion.classifier import Classifier, load_classifier, prepare, save_classifier, save_reference

BATCH = 128
LEARNING_RATE = 3e-3
KEPT = 2000
"""How many of the training images' features are kept, for KID."""


def read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images [n, 1, 32, 32] (uint8, padded with black from 28×28) and labels [n] (int64) of "train" or "t10k"."""
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    # IDX: a header of 16 or 8 bytes, then the values.
    images = torch.frombuffer(bytearray(pixels), dtype=torch.uint8, offset=16).view(-1, 1, 28, 28)
    classes = torch.frombuffer(bytearray(labels), dtype=torch.uint8, offset=8).long()
    return functional.pad(images, (2, 2, 2, 2)), classes


def train(images: Tensor, labels: Tensor, seed: int, epochs: int) -> Classifier:
    """Train on images [n, 1, 32, 32] (uint8) and labels [n]: AdamW, one warm-up and cosine, flips and shifts."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Classifier()
    # Spelt out: `fused` is off on a CPU unless asked for.
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02, fused=True)
    updates = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min(1.0, (n + 1) / 200) * 0.5 * (1 + math.cos(math.pi * n / updates))
    )
    start = time.monotonic()
    for epoch in range(epochs):
        draws = generator(seed, epoch, "classifier")
        for chosen in torch.randperm(len(images), generator=draws)[: len(images) // BATCH * BATCH].view(-1, BATCH):
            _, logits = network(_augment(prepare(images[chosen]), draws))
            loss = functional.cross_entropy(logits, labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        click.echo(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.3f}, {time.monotonic() - start:.0f} s")
    return network.eval()


def _augment(x: Tensor, draws: torch.Generator) -> Tensor:
    """Mirror half of the pictures [B, 1, 32, 32], and move the whole batch by up to 2 pixels (the black margin)."""
    mirrored = torch.rand(len(x), generator=draws) < 0.5
    x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
    down, right = (torch.randint(-2, 3, (2,), generator=draws)).tolist()
    return x.roll((down, right), (-2, -1))


@torch.no_grad()
def extract(network: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features [n, 128] and logits [n, 10] of uint8 images [n, 1, 32, 32]."""
    pairs = [network(prepare(batch)) for batch in torch.split(images, 500)]
    return torch.cat([features for features, _ in pairs]), torch.cat([logits for _, logits in pairs])


def sha256(data: bytes) -> str:
    """Eight hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:8]


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--epochs", default=10, show_default=True)
def main(data: Path, output: Path, seed: int, epochs: int) -> None:
    """Train the feature network of Fashion-MNIST; write weights, reference statistics and their provenance."""
    output.mkdir(parents=True, exist_ok=True)
    images, labels = read(data, "train")
    network = train(images, labels, seed, epochs)
    save_classifier(network, output / "classifier.safetensors")

    # From here on the network is the one that was written, with its rounded weights.
    network = load_classifier(output / "classifier.safetensors")
    test_images, test_labels = read(data, "t10k")
    _, logits = extract(network, test_images)
    accuracy = (logits.argmax(1) == test_labels).double().mean().item()
    features, _ = extract(network, images)
    statistics = FeatureStatistics.of(features, None, sha256(images.numpy().tobytes()))
    kept = torch.randperm(len(features), generator=generator(seed, "kept features"))[:KEPT]
    save_reference(statistics, features[kept], output / "reference.safetensors")
    provenance = {
        "what": "classifier of Fashion-MNIST; its 128 penultimate features score samples",
        "made_by": "python -m distillkit_fashion.train_classifier",
        "seed": seed,
        "epochs": epochs,
        "batch": BATCH,
        "learning_rate": LEARNING_RATE,
        "test_accuracy": round(accuracy, 4),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "weights_sha256": hashlib.sha256((output / "classifier.safetensors").read_bytes()).hexdigest(),
        "reference_images": statistics.count,
        "reference_hash": statistics.hash,
        "torch": torch.__version__,
    }
    (output / "classifier.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    click.echo(f"test accuracy {accuracy:.4f}, written to {output}")


if __name__ == "__main__":
    main()
