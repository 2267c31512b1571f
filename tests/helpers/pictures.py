"""Folders of pictures."""

from __future__ import annotations

from pathlib import Path

from distillkit_data.images import Images
from PIL import Image


def picture(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (4, 4)) -> None:
    """Write a picture of one colour."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)


def images(folder: Path, size: int = 4, channels: int = 3, bad: str = "stop") -> Images:
    """The pictures of a folder, set up."""
    options = {"folder": folder, "size": size, "channels": channels, "on_bad_picture": bad}
    data = Images(Images.Options.model_validate(options))
    assert not list(data.check())
    data.setup()
    return data
