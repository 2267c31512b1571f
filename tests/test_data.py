"""Data sets: digits, Fashion-MNIST's files, and what a model takes."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from conftest import SMALL
from distillkit_data.datasets import Digits, FashionMnist, read_idx
from helpers.pictures import picture
from sklearn.datasets import load_digits

from distillkit.cli.group import cli
from distillkit.errors import DistillkitError, Mistake


def test_digits_are_scikit_learns() -> None:
    data = Digits(Digits.Options())
    data.setup()
    images, labels = data.batch(torch.tensor([5, 1796]))
    bunch = load_digits()
    assert len(data) == 1797
    np.testing.assert_allclose(images[:, 0].numpy(), bunch.images[[5, 1796]] / 8 - 1)
    assert labels is not None
    assert labels.tolist() == bunch.target[[5, 1796]].tolist()
    assert (images.dtype, images.min().item(), images.max().item()) == (torch.float32, -1, 1)
    assert data.classes == 10


# --- IDX files -------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


PIXELS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.mark.parametrize(("split", "part"), [("train", "train"), ("test", "t10k")])
@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_from_its_files(tmp_path: Path, split: str, part: str, packed: bool) -> None:
    for stem, array in ((f"{part}-images-idx3-ubyte", PIXELS), (f"{part}-labels-idx1-ubyte", LABELS)):
        content = idx(array)
        (tmp_path / f"{stem}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    data = FashionMnist(FashionMnist.Options.model_validate({"folder": tmp_path, "split": split}))
    assert not list(data.check())
    data.setup()
    found, labels = data.batch(torch.tensor([4, 0]))
    assert len(data) == 5
    assert labels is not None
    assert labels.tolist() == [5, 3]
    assert data.classes == 6
    assert found.shape == (2, 1, 32, 32)
    np.testing.assert_allclose(found[:, 0, 2:-2, 2:-2].numpy(), PIXELS[[4, 0]] / 127.5 - 1, atol=1e-6)
    edge = torch.ones(32, 32, dtype=torch.bool)
    edge[2:-2, 2:-2] = False
    assert (found[:, 0, edge] == -1).all()


def test_fashion_mnist_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    [mistake] = FashionMnist(FashionMnist.Options(folder=tmp_path)).check()
    assert mistake == Mistake(
        "folder",
        f"there is no train-images-idx3-ubyte[.gz] in {tmp_path}; install Debian's dataset-fashion-mnist, or name the "
        "folder that holds Fashion-MNIST's IDX files",
    )


def cut_gzip() -> bytes:
    return gzip.compress(idx(PIXELS))[:500]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file of unsigned bytes"),
        (b"\x00\x00\x0d\x01" + bytes(8), "not an IDX file of unsigned bytes"),  # floats
        (b"\x89PNG" + bytes(8), "not an IDX file of unsigned bytes"),
        (idx(PIXELS)[:7], "not an IDX file of unsigned bytes"),  # cut in its header
        (idx(LABELS)[:-2], "should have (5,) values, but has 3"),
        (idx(LABELS) + b"x", "should have (5,) values, but has 6"),
        (cut_gzip(), "cannot be decompressed (Compressed file ended before the end-of-stream marker was reached)"),
    ],
)
def test_files_that_are_no_idx_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(DistillkitError) as caught:
        read_idx(tmp_path / "file")
    assert str(caught.value) == f"{tmp_path}/file: {message}"


def test_labels_of_another_set(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(PIXELS))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:4]))
    data = FashionMnist(FashionMnist.Options(folder=tmp_path))
    with pytest.raises(DistillkitError) as caught:
        data.setup()
    assert str(caught.value) == f"data.folder: {tmp_path} has 5 images, [28, 28] pixels each, and 4 labels"


# --- what a model takes ----------------------------------------------------------------------------------------------

NO_NULL = SMALL.replace("null_class = 10\n", "")


def train(folder: Path, data: str, model: str = SMALL, preset: str = "training") -> Result:
    """`distillkit run` for one update of a tiny network on data; a new run in folder/run."""
    text = f'preset = "{preset}"\n[run]\nupdates = 1\n[evaluation]\nsteps = [2]\ngrid = 1\n{data}\n{model}'
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    arguments = ["run", str(folder / "mine.toml"), "--output", str(folder / "run"), "--set", "source.batch=2"]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def refusal(folder: Path, *arguments: str) -> str:
    """What `train` says; nothing may be left behind."""
    result = train(folder, *arguments)
    assert result.exit_code == 2
    assert not (folder / "run").exists()
    return result.stderr


def folder_of_pictures(folder: Path) -> str:
    return f'[data]\ntype = "images"\nfolder = "{folder}"\nsize = 8\nchannels = 1'


@pytest.mark.parametrize(
    ("preset", "data"),
    [
        ("training", '[data]\ntype = "digits"'),
        # Only the scores need pictures.
        ("dsdn", '[data]\ntype = "digits"\n[features]\ntype = "pixels"\n[[metric]]\ntype = "fid"'),
    ],
    ids=["to learn from", "to score with"],
)
def test_pictures_of_another_size_than_the_model_s(tmp_path: Path, preset: str, data: str) -> None:
    large = SMALL.replace("sample_size = 8", "sample_size = 32")
    assert refusal(tmp_path, data, large, preset) == (
        "data: the images of 'digits' make samples of (1, 8, 8) (channels, height, width), and the model takes "
        "(1, 32, 32); give it images of its own size\n"
    )


def test_pictures_that_nobody_looks_at_may_have_any_size(tmp_path: Path) -> None:
    large = SMALL.replace("sample_size = 8", "sample_size = 32")
    result = train(tmp_path, '[data]\ntype = "digits"\n[schedule]\nsteps = 2', large, "dsdn")
    assert result.exit_code == 0, result.stderr


def test_pictures_without_labels_need_a_null_class(tmp_path: Path) -> None:
    picture(tmp_path / "pictures/a.png", (255, 255, 255))
    data = folder_of_pictures(tmp_path / "pictures")
    assert refusal(tmp_path, data, NO_NULL) == (
        "data: the images of 'images' have no labels, and the model is conditioned on 11 classes, none of which means "
        '"no class"; give labelled images, or name that class in model.null_class\n'
    )
    result = train(tmp_path, data)
    assert result.exit_code == 0, result.stderr


def test_more_classes_than_the_model_s(tmp_path: Path) -> None:
    """Of its three classes the last one means "no class"."""
    for name in ("cat", "dog", "eel"):
        picture(tmp_path / f"pictures/{name}/a.png", (255, 255, 255))
    data = folder_of_pictures(tmp_path / "pictures")
    three = SMALL.replace("num_class_embeds = 11", "num_class_embeds = 3")
    expected = "data: the images of 'images' have 3 classes (cat, dog, eel), and the model 2\n"
    assert refusal(tmp_path, data, three.replace("null_class = 10", "null_class = 2")) == expected
    result = train(tmp_path, data, three.replace("null_class = 10\n", ""))
    assert result.exit_code == 0, result.stderr
