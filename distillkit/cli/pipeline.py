"""Opens a pipeline's folder for the commands that sample from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distillkit.config import Scoring, read_component, table_of_result
from distillkit.config.read import tables_in
from distillkit.interfaces import Model
from distillkit.noise import NoisePath, Predictor, TablePath


def pipeline_folder(path: Path) -> Path:
    """The pipeline that a path means: itself, or the one in a run's folder."""
    return path / "pipeline" if (path / "pipeline").is_dir() else path


def tables_of_run(pipeline: Path) -> dict[str, Any]:
    """The config of the run that a pipeline lies in; empty if it lies in none."""
    config = pipeline.resolve().parent / "config.toml"
    return tables_in(config) if pipeline.name == "pipeline" and config.is_file() else {}


def load_model(pipeline: Path, prompts: Path | None = None) -> Model:
    """The pipeline's network, with the grids that its scheduler says.

    Args:
        pipeline: its folder.
        prompts: a text file of what a text-conditional one is told, instead of what its run told it.
    """
    table = table_of_result(tables_of_run(pipeline), pipeline)
    if prompts is not None:
        table = {key: value for key, value in table.items() if key != "prompts"} | {"prompts_file": str(prompts)}
    model: Model = read_component("model", table, str(pipeline))
    model.load()
    return model


def grid_of(model: Model) -> dict[str, Any]:
    """The grid that a pipeline has, as the config's table."""
    # Only tables let a grid begin elsewhere.
    path = model.spec.path
    start = {"start": path.start} if isinstance(path, TablePath) else {}
    return {"spacing": path.spacing} | start


def picture_shape(model: Model) -> tuple[int, int]:
    """Channels and height of a model's pictures: a latent model's samples are none yet."""
    _, channels, height, _ = model.decode(torch.zeros(1, *model.spec.sample_shape)).shape
    return channels, height


def make_predictor(model: Model, path: NoisePath, scoring: Scoring) -> tuple[Predictor, Scoring]:
    """The network on the engine's device; and the settings with the pipeline's sampler, if none is set."""
    scoring.engine.setup()
    if "sampler" not in scoring.evaluation.model_fields_set:
        evaluation = scoring.evaluation.model_copy(update={"sampler": model.spec.sampler})
        scoring = replace(scoring, evaluation=evaluation)
    model.network.eval()
    predictor = Predictor(model.network, path, model.spec.prediction, model.forward)
    return predictor.to(scoring.engine.device), scoring
