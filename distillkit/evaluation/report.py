"""Grids of sample images from the same noise, and what the scores say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch
import torch.nn.functional as functional

from distillkit.config import Scoring
from distillkit.errors import DistillkitError
from distillkit.files import reason, replacing
from distillkit.reading import way

GAP = 2
"""Pixels between images, before small ones are enlarged."""
READABLE = 64
"""Smaller images are enlarged by an integer factor, to about this many pixels."""


def sheet(rows: Sequence[torch.Tensor], labels: Sequence[str] | None = None) -> torch.Tensor:
    """Arrange images in a grid: uint8 [height, width, 3].

    Args:
        rows: uint8 images of each row, [n, C, H, W], all of one size. Shorter rows are padded with white. With C
            neither 1 nor 3, the first channel is shown.
        labels: the text to the left of each row.
    """
    height, width = rows[0].shape[-2:]
    columns = max(len(row) for row in rows)
    canvas = torch.full((3, len(rows) * (height + GAP) + GAP, columns * (width + GAP) + GAP), 255, dtype=torch.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row.cpu()):
            top, left = GAP + i * (height + GAP), GAP + j * (width + GAP)
            canvas[:, top : top + height, left : left + width] = picture if len(picture) == 3 else picture[:1]
    factor = max(1, READABLE // max(height, width))
    large = functional.interpolate(canvas[None], scale_factor=factor, mode="nearest")[0].permute(1, 2, 0)
    if labels is None:
        return large.contiguous()
    return torch.cat([_margin(labels, len(large), (height + GAP) * factor), large], dim=1)


def _margin(labels: Sequence[str], height: int, row: int) -> torch.Tensor:
    """Draw each label in the middle of its row of `row` pixels: uint8 [height, width of the labels, 3]."""
    font = PIL.ImageFont.load_default()
    width = 12 + max(int(font.getlength(label)) for label in labels)
    image = PIL.Image.new("RGB", (width, height), "white")
    draw = PIL.ImageDraw.Draw(image)
    for i, label in enumerate(labels):
        draw.text((6, i * row + row // 2 - 5), label, fill="black", font=font)
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(height, width, 3)


def gains(rows: Sequence[Mapping[str, Any]], settings: Scoring) -> Iterator[str]:
    """Say what the student won over the teacher at its best, in a line for each metric and number of steps.

    Args:
        rows: the scores of a run. Without any of the teacher, there is nothing to say.
        settings: how they were taken.
    """
    features = settings.features
    rising = {metric.label(features) for metric in settings.metrics if features and metric.higher_is_better}
    teacher = {(row["metric"], row["steps"]): row for row in rows if row["model"] == "teacher" and row.get("best")}
    for row in rows:
        label, steps, value = row["metric"], row["steps"], row["value"]
        if row["model"] != "student" or (label, steps) not in teacher:
            continue
        best = teacher[label, steps]
        free, how = best["value"], way(best)
        where = f"{label} in {steps} step{'s' if steps > 1 else ''}"
        if value > free if label in rising else value < free:
            yield f"{where}: the student has {value:.4g}; without training, {how} has {free:.4g}"
        else:
            yield f"{where}: nothing is won: without training, {how} has {free:.4g}; the student has {value:.4g}"


def write_png(path: Path, image: torch.Tensor) -> None:
    """Write a uint8 image [H, W, 3] atomically; missing folders are created.

    Raises:
        DistillkitError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            PIL.Image.fromarray(image.cpu().numpy()).save(temporary, format="PNG")
    except OSError as error:
        raise DistillkitError(f"{path}: cannot be written ({reason(error)})") from None
