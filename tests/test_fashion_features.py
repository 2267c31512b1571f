"""The bundled feature network of Fashion-MNIST, its reference statistics and the script that makes them."""

from __future__ import annotations

import gzip
import hashlib
import json
import tomllib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from distillkit_fashion.classifier import DATA, REFERENCE, WEIGHTS, load_classifier, load_reference
from distillkit_fashion.fashion import FOLDER, Fashion
from distillkit_fashion.train_classifier import extract, main, read
from distillkit_metrics.metrics import FrechetDistance, frechet_distance
from safetensors.torch import load_file

from distillkit.errors import DistillkitError
from distillkit.interfaces import FeatureStatistics

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
needs_data = pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs Debian's dataset-fashion-mnist")


def test_the_bundled_teacher_is_as_its_provenance_says() -> None:
    provenance = json.loads((FOLDER / "provenance.json").read_text())
    weights = FOLDER / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    assert provenance["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights.stat().st_size <= 3_000_000
    config = tomllib.loads((Path(__file__).parents[1] / "configs" / "fashion_teacher.toml").read_text())
    for table in ("network", "scheduler", "null_class"):
        assert provenance["config"]["model"][table] == config["model"][table]
    assert provenance["updates"] == config["run"]["updates"]
    assert provenance["config"]["source"]["batch"] == config["source"]["batch"]
    scores = {row["steps"]: row["value"] for row in provenance["scores"]}
    assert scores[64] < scores[16] < scores[4]


def fashion() -> Fashion:
    made = Fashion(Fashion.Options())
    made.setup(torch.device("cpu"))
    return made


def test_what_is_shipped_is_small_and_as_its_provenance_says() -> None:
    provenance = json.loads((DATA / "classifier.json").read_text())
    assert provenance["test_accuracy"] >= 0.91
    assert provenance["weights_sha256"] == hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    assert provenance["reference_hash"] == load_reference().hash
    assert WEIGHTS.stat().st_size <= 1_000_000
    assert REFERENCE.stat().st_size <= 1_000_000


def test_the_reference_is_of_its_own_features() -> None:
    reference = fashion().bundled_reference()
    assert reference.count == 60000
    assert reference.features is not None
    kept = FeatureStatistics.of(reference.features, None, "kept")
    # 2000 of the 60 000 images: near, on the scale of the 676 that noise is away.
    assert frechet_distance(kept.mean, kept.covariance, reference.mean, reference.covariance) < 3
    noise = torch.randint(256, (300, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, _ = fashion().extract(noise)
    metric = FrechetDistance(FrechetDistance.Options())
    assert metric.compute(FeatureStatistics.of(features, None, "noise"), reference) > 300
    assert metric.label(fashion()) == "fd-fashion"


def test_28_and_32_pixels_and_grey_and_colour_are_the_same_picture() -> None:
    small = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    large = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    large[:, :, 2:30, 2:30] = small
    features, logits = fashion().extract(small)
    torch.testing.assert_close(fashion().extract(large)[0], features)
    assert features.shape == (2, 128)
    assert logits is not None
    assert logits.shape == (2, 10)
    with pytest.raises(DistillkitError, match="pictures of 28×28 or 32×32 pixels, and these have 64×48"):
        fashion().extract(torch.zeros(1, 1, 64, 48, dtype=torch.uint8))


@needs_data
def test_accuracy_and_the_floor_of_a_perfect_model() -> None:
    images, labels = read(FASHION_MNIST, "t10k")
    features, logits = extract(load_classifier(), images)
    assert (logits.argmax(1) == labels).double().mean() >= 0.91
    real, reference = FeatureStatistics.of(features, None, "test"), load_reference()
    assert frechet_distance(real.mean, real.covariance, reference.mean, reference.covariance) < 0.5


def test_the_script_makes_the_same_files_from_the_same_seed(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    for part, count in (("train", 256), ("t10k", 20)):
        pixels = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=draws).numpy().tobytes()
        labels = torch.randint(10, (count,), dtype=torch.uint8, generator=draws).numpy().tobytes()
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + pixels))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels))
    for output, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        arguments = ["--data", str(tmp_path), "--output", str(tmp_path / output), "--epochs", "1", "--seed", seed]
        CliRunner().invoke(main, arguments, catch_exceptions=False)
    weights = [(tmp_path / output / "classifier.safetensors").read_bytes() for output in "abc"]
    assert weights[0] == weights[1] != weights[2]

    # The statistics are those of the network as it was written, with rounded weights.
    images, _ = read(tmp_path, "train")
    features, _ = extract(load_classifier(tmp_path / "a" / "classifier.safetensors"), images)
    mean = load_file(tmp_path / "a" / "reference.safetensors")["mean"]
    torch.testing.assert_close(mean, features.double().mean(0))
    assert json.loads((tmp_path / "a" / "classifier.json").read_text())["reference_images"] == 256
