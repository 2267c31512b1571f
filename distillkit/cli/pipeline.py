"""What the commands that sample from pipelines share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from distillkit.config import Scoring
from distillkit.interfaces import Model
from distillkit.noise import NoisePath, Predictor, TablePath
from distillkit.training.seams import watch_model


def split_assignments(assignments: Iterable[str]) -> tuple[list[str], list[str]]:
    """`--set` assignments of the table [model], and the others."""
    model: list[str] = []
    others: list[str] = []
    for text in assignments:
        (model if text.lstrip().startswith("model.") else others).append(text)
    return model, others


def grid_of(model: Model) -> dict[str, Any]:
    """A pipeline's grid, as a `[grid]` table."""
    # Only the grids of table paths have a start.
    path = model.spec.path
    start = {"start": path.start} if isinstance(path, TablePath) else {}
    return {"spacing": path.spacing} | start


def picture_shape(model: Model) -> tuple[int, int]:
    """Channels and height of a model's decoded pictures."""
    _, channels, height, _ = model.decode(torch.zeros(1, *model.spec.sample_shape)).shape
    return channels, height


def make_predictor(model: Model, path: NoisePath, scoring: Scoring) -> tuple[Predictor, Scoring]:
    """Make a predictor on the engine's device.

    Returns:
        The predictor; and the settings, with the pipeline's sampler unless they name one.
    """
    scoring.engine.setup()
    if "sampler" not in scoring.evaluation.model_fields_set:
        evaluation = scoring.evaluation.model_copy(update={"sampler": model.spec.sampler})
        scoring = replace(scoring, evaluation=evaluation)
    model.network.eval()
    predictor = Predictor(model.network, path, model.spec.prediction, model.forward, step_input=model.step_input)
    watch_model(model, predictor)
    return predictor.to(scoring.engine.device), scoring
