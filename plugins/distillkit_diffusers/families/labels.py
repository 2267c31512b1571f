"""Class labels and guidance scales as a network's conditions. Imports torch."""

from __future__ import annotations

import torch

from distillkit.errors import DistillkitError
from distillkit.interfaces import GuidanceInput
from distillkit.noise import GUIDANCE, Condition


def with_scales(found: Condition, count: int, guidance: torch.Tensor | None, taken: GuidanceInput) -> Condition:
    """The same condition for a network that is told the guidance scale.

    Args:
        found: without guidance.
        count: of samples.
        guidance: scales, [count]; None: 1 for all.
        taken: what the network takes.

    Raises:
        DistillkitError: it does not take one of the scales.
    """
    scales = torch.ones(count) if guidance is None else guidance
    low, high = scales.min().item(), scales.max().item()
    if low < taken.low or high > taken.high:
        raise DistillkitError(
            f"guidance: the network takes the scales from {taken.low:g} to {taken.high:g} as an input (got "
            f"{low if low < taken.low else high:g}); ask for one of them"
        )
    return Condition({**found.inputs, GUIDANCE: scales}, {**(found.null or {}), GUIDANCE: scales})


def class_condition(
    labels: torch.Tensor | None, count: int, guidance: torch.Tensor | None, embeddings: int, null_class: int | None
) -> Condition:
    """The condition `class_labels` for `count` samples; what `Model.condition` does for classes.

    Args:
        labels: classes, [count], −1 meaning the null class; None: all of them.
        guidance: scales, [count], or None.
        embeddings: how many classes the network tells apart, the null class among them.
        null_class: the class that means "no class"; None if there is none.

    Raises:
        DistillkitError: a label is not one of the network's, or guidance has nothing to compare with.
    """
    if guidance is not None and null_class is None:
        raise DistillkitError(
            "guidance: the model has no null class, which guidance compares with; set guidance to 1, or name it "
            "in model.null_class"
        )
    if labels is None:
        labels = torch.full((count,), -1)
    if labels.max() >= embeddings:
        last = embeddings - 1 if null_class is None else null_class - 1
        raise DistillkitError(f"class {int(labels.max())}: the model has classes 0 to {last}")
    if null_class is None:
        if labels.min() < 0:
            raise DistillkitError("the model has no null class, and a sample has no label; see model.null_class")
        return Condition({"class_labels": labels})
    null = torch.full_like(labels, null_class)
    return Condition({"class_labels": torch.where(labels < 0, null, labels)}, {"class_labels": null}, guidance)
