"""Loads pipelines, for the commands that sample from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from distillkit.config import Scoring, read_component, table_of_result
from distillkit.config.layers import assign, parse_assignments
from distillkit.config.read import tables_in
from distillkit.errors import ConfigError
from distillkit.interfaces import Model
from distillkit.noise import NoisePath, Predictor, TablePath
from distillkit.registry import load_registry
from distillkit.training.checks import check_spec
from distillkit.training.seams import watch_model


def pipeline_folder(path: Path) -> Path:
    """The folder of the pipeline: `path` itself, or the pipeline of the run in `path`."""
    return path / "pipeline" if (path / "pipeline").is_dir() else path


def tables_of_run(pipeline: Path) -> dict[str, Any]:
    """The config of the run that exported a pipeline; empty if the pipeline is not in a run's folder."""
    config = pipeline.resolve().parent / "config.toml"
    return tables_in(config) if pipeline.name == "pipeline" and config.is_file() else {}


def split_assignments(assignments: Iterable[str]) -> tuple[list[str], list[str]]:
    """`--set` assignments of the table [model], and the others."""
    model: list[str] = []
    others: list[str] = []
    for text in assignments:
        (model if text.lstrip().startswith("model.") else others).append(text)
    return model, others


def load_model(pipeline: Path, prompts: Path | None = None, assignments: Iterable[str] = ()) -> Model:
    """Load a pipeline as a model, with the grid of its scheduler.

    Args:
        pipeline: the pipeline's folder.
        prompts: for a text-conditional model, a text file with prompts, instead of those of its run.
        assignments: of `--set`, as in `model.scheduler.clip_sample=false`.

    Raises:
        ConfigError: the assignments are not options of the model.
    """
    table = table_of_result(tables_of_run(pipeline), pipeline)
    if prompts is not None:
        table = load_registry().table("model", table, prompts=str(prompts), prompt_list=None)
    tables = {"model": table}
    parsed, mistakes = parse_assignments(assignments)
    if mistakes := [*mistakes, *assign(tables, parsed)]:
        raise ConfigError(mistakes, str(pipeline))
    model: Model = read_component("model", table, str(pipeline))
    model.load()
    check_spec(model)
    return model


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
