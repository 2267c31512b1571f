"""Lets a student begin with another one's weights, while its teacher is the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from distillkit.errors import DistillkitError
from distillkit.training.assemble import Parts


def read_start(parts: Parts, folder: Path) -> Mapping[str, torch.Tensor]:
    """The weights of a student that was exported.

    Args:
        parts: loaded; the engine does not have the network yet.
        folder: of a run, or of a pipeline.

    Returns:
        all weights that the new student trains, by name, on the CPU.

    Raises:
        DistillkitError: there is no pipeline, or it has another network.
    """
    pipeline = folder / "pipeline" if (folder / "pipeline").is_dir() else folder
    if not pipeline.is_dir():
        raise DistillkitError(f"student.start: {folder} does not exist; give the folder of a run or of a pipeline")
    try:
        found = parts.components.model.read_student(pipeline)
    except DistillkitError as error:
        raise DistillkitError(f"student.start: {error}") from None
    trained = {name: weight for name, weight in parts.student.network.named_parameters() if weight.requires_grad}
    wanted = {name: weight.shape for name, weight in trained.items()}
    names = sorted(found.keys() | wanted.keys())
    other = [name for name in names if name not in found or found[name].shape != wanted.get(name)]
    if other:
        raise DistillkitError(
            f"student.start: {pipeline} has another network than the model: they differ in '{other[0]}'; give a "
            "student that was made from this model, with the same inputs (model.step_input)"
        )
    return found


def begin_with(parts: Parts, weights: Mapping[str, torch.Tensor]) -> None:
    """Give the student these weights. Collective.

    Args:
        parts: prepared, before the first update.
        weights: as `read_start` returned them.
    """
    components, engine = parts.components, parts.components.engine
    engine.start_from(weights)
    with engine.unsharded():
        for part in (components.teacher, components.target):
            if part is not None:
                part.started(parts.student)
