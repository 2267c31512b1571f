"""Data sets of Hugging Face's library, where it is installed, and the sentence where it is not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import distillkit_data.huggingface
import numpy as np
import pytest
import torch
from conftest import ConfigFile
from distillkit_data.huggingface import HuggingFace
from distillkit_data.images import Images
from PIL import Image

from distillkit.config import read_config
from distillkit.errors import ConfigError, DistillkitError

NUMBER = 6
CAPTIONS = ["a dog", "a cat", "a dog", "a bird", "a cat", "a dog"]


def test_where_the_library_is_not_installed(config: ConfigFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillkit_data.huggingface, "find_spec", lambda name: None)
    text = 'preset = "pd"\n[run]\nupdates = 64\n[data]\ntype = "huggingface"\npath = "mine"\nsize = 8\n'
    with pytest.raises(ConfigError) as caught:
        read_config(config.write(text))
    told = "data.type: 'huggingface' needs datasets, which is not installed: pip install 'distillkit[datasets]'"
    assert [str(mistake) for mistake in caught.value.mistakes] == [told]
    with pytest.raises(DistillkitError, match="needs datasets, which is not installed"):
        load("mine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of 12×10 in sub-folders that are classes."""
    generator = np.random.default_rng(0)
    for i in range(NUMBER):
        file = tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(256, size=(12, 10, 3), dtype=np.uint8)).save(file)
    return tmp_path / "pictures"


def load(path: object, **options: Any) -> HuggingFace:
    data = HuggingFace(HuggingFace.Options(path=str(path), size=8, **options))
    data.setup()
    return data


def same(found: HuggingFace, folder: Path) -> None:
    """Its pictures are those that `images` reads."""
    expected = Images(Images.Options(folder=folder, size=8))
    expected.setup()
    indices = torch.arange(NUMBER)
    assert torch.equal(found.batch(indices)[0], expected.batch(indices)[0])
    assert len(found) == NUMBER


def saved(library: Any, folder: Path, **columns: Any) -> Path:
    """A data set as `save_to_disk` writes it; its pictures are paths."""
    files = [str(file) for file in sorted(folder.rglob("*.png"))]
    library.Dataset.from_dict({"image": files, **columns}).save_to_disk(folder.parent / "saved")
    return folder.parent / "saved"


def test_a_folder_of_pictures(library: Any, folder: Path) -> None:
    found = load(folder, label="label")
    same(found, folder)
    assert (found.classes, found.class_names) == (2, ["a", "b"])
    labels = found.batch(torch.tensor([0, 5]))[1]
    assert labels is not None
    assert labels.tolist() == [0, 1]


def test_captions_are_classes(library: Any, folder: Path) -> None:
    found = load(saved(library, folder, text=CAPTIONS, number=[3, 0, 0, 1, 0, 2]), label="text")
    same(found, folder)
    assert (found.classes, found.class_names) == (3, ["a bird", "a cat", "a dog"])
    labels = found.batch(torch.arange(NUMBER))[1]
    assert labels is not None
    assert labels.tolist() == [2, 1, 2, 0, 1, 2]
    numbers = load(folder.parent / "saved", label="number")
    assert (numbers.classes, numbers.class_names) == (4, None)
    bare = load(folder.parent / "saved", channels=1)
    assert (bare.classes, bare.batch(torch.tensor([1]))[1], bare.batch(torch.tensor([1]))[0].shape[1]) == (
        None,
        None,
        1,
    )


def test_mistakes(library: Any, folder: Path, tmp_path: Path) -> None:
    path = saved(library, folder, part=[0.5] * NUMBER, gap=[None, *CAPTIONS[1:]])
    for options, told in (
        ({"image": "picture"}, rf"^data\.image: '{path}' has no column 'picture'; it has image, part, gap$"),
        ({"label": "part"}, r"^data\.label: the column 'part' must hold whole numbers of 0 or more, or texts"),
        ({"label": "gap"}, r"^data\.label: the column 'gap' must hold"),
        ({"split": "test"}, rf"^data\.split: '{path}' was saved without splits"),
    ):
        with pytest.raises(DistillkitError, match=told):
            load(path, **options)
    library.DatasetDict({"test": library.load_from_disk(path)}).save_to_disk(tmp_path / "parts")
    assert len(load(tmp_path / "parts", split="test")) == NUMBER
    with pytest.raises(DistillkitError, match=r"^data\.split: '.*' has no 'train'; it has test$"):
        load(tmp_path / "parts")
    with pytest.raises(DistillkitError, match=r"^data\.path: '.*nowhere' cannot be loaded \("):
        load(tmp_path / "nowhere")
    (folder / "b/5.png").write_bytes(b"no picture")
    with pytest.raises(DistillkitError, match=rf"^data\.path: picture 5 of '{path}' cannot be read \("):
        load(path).batch(torch.tensor([5]))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits(library: Any, folder: Path, dtype: type) -> None:
    Image.fromarray(np.full((12, 10), 70000, dtype)).save(folder / "b/5.png", format="TIFF")
    told = "cannot be read (it has 32 bits a pixel, and nothing says which range of them is used)"
    with pytest.raises(DistillkitError, match=rf"^data\.path: picture 5 of '.*' {re.escape(told)}$"):
        load(saved(library, folder)).batch(torch.tensor([5]))
