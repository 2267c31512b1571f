"""Opens exported pipelines, and makes of one the pipelines for other numbers of steps and other guidance scales."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch

from distillkit.config import read_choice, read_component, table_of_result
from distillkit.config.layers import assign, parse_assignments
from distillkit.config.read import tables_in
from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import Export, Model
from distillkit.registry import load_registry
from distillkit.training.checks import check_spec
from distillkit.training.folder import RunFolder


def pipeline_folder(path: Path) -> Path:
    """The folder of the pipeline: `path` itself, or the pipeline of the run in `path`."""
    return path / "pipeline" if (path / "pipeline").is_dir() else path


def tables_of_run(pipeline: Path) -> dict[str, Any]:
    """The config of the run that exported a pipeline; empty if the pipeline is not in a run's folder."""
    config = pipeline.resolve().parent / "config.toml"
    return tables_in(config) if pipeline.name == "pipeline" and config.is_file() else {}


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


def check_guidance(tables: Mapping[str, Any], guidance: float | None) -> float | None:
    """Check that a run's student, which has these tables, can be guided as asked for; None: not asked for.

    Returns:
        The one scale that it has inside; None if it has none, or is told the scale.

    Raises:
        DistillkitError: it has guidance inside.
    """
    inside = tables["source"]["guidance"] if tables.get("student", {}).get("guidance") == "baked" else None
    if inside is None or isinstance(inside, list):
        return None
    if guidance is not None:
        raise DistillkitError(f"guidance: the student has guidance inside, at scale {inside:g}; leave it out")
    return float(inside)


def prepare(folder: Path, steps: Sequence[int], guidance: float | None) -> tuple[Model, Export]:
    """Load a pipeline, and say how it is exported anew.

    Args:
        folder: the pipeline's folder.
        steps: the numbers of steps that the export shall serve, its own one first.
        guidance: the guidance scale s (1 is none); None for the pipeline's own.

    Returns:
        The model and the export, for `model.export(model.network, …)`.

    Raises:
        DistillkitError: the network cannot be sampled so.
    """
    tables = tables_of_run(folder)
    model = load_model(folder, assignments=() if tables else _any_prompt(folder))
    evaluation = tables.get("evaluation", {})
    baked = check_guidance(tables, guidance)
    scale = evaluation.get("guidance", model.spec.guidance) if guidance is None else guidance
    if scale < 1 and model.spec.guidance_input is None:
        raise DistillkitError(
            f"guidance: must be 1 (none) or more, as diffusers' pipelines guide above 1 only (got {scale:g})"
        )
    # Raises where the network cannot be guided so.
    model.condition(
        None if model.spec.classes is None else torch.tensor([0]), 1, torch.tensor([scale]) if scale != 1 else None
    )
    if len(steps) > 1 and not model.step_input:
        raise DistillkitError(
            "steps: the network does not take the step size, so that no folder serves several numbers of steps; "
            "give one"
        )
    for count in steps:
        # As a trailing grid of too many steps has none.
        model.spec.path.grid(count)
    return model, Export(
        path=model.spec.path,
        steps=steps[0],
        served=evaluation.get("steps", []),
        guidance=scale,
        method=tables.get("run", {}).get("method", "unknown"),
        teacher=str(tables["model"].get("path", tables["model"]["type"])) if tables else str(folder),
        scores=RunFolder(folder.parent).read_scores() if tables else [],
        settings=tables or {"run": {"name": folder.name, "updates": "unknown"}},
        sampler=evaluation.get("sampler", model.spec.sampler),
        baked=baked,
        several=tuple(steps) if len(steps) > 1 else (),
    )


def _any_prompt(folder: Path) -> list[str]:
    """Assignments for a folder without its run, which has no prompts: one, if the model needs some.

    No exported weight depends on the prompts.
    """
    table = table_of_result({}, folder)
    key = load_registry().find("model", table["type"]).command_options.get("prompt_list")
    try:
        read_choice("model", table, str(folder))
    except ConfigError as error:
        if f"model.{key}" in {mistake.key for mistake in error.mistakes}:
            return [f'model.{key}=[""]']
    return []


def load_pipeline(folder: Path, steps: int | None, guidance: float | None) -> diffusers.DiffusionPipeline:
    """See `distillkit.load_pipeline`."""
    pipeline = pipeline_folder(folder)
    if not (pipeline / "model_index.json").is_file():
        raise DistillkitError(
            f"{folder}: is neither an exported pipeline nor the folder of a finished run; expected model_index.json or "
            "pipeline/ in it"
        )
    if steps is None:
        if guidance is not None:
            raise DistillkitError("guidance: is given without steps, on which the exported network depends; give both")
        return _open(pipeline)
    if steps < 1:
        raise DistillkitError(f"steps: must be at least 1 (got {steps})")
    model, export = prepare(pipeline, [steps], guidance)
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary, "pipeline")
        model.export(model.network, made, export)
        opened = _open(made)
        # Loaders map weights into memory from files, which would keep their place on the disk.
        for part in opened.components.values():
            if isinstance(part, torch.nn.Module):
                for weight in [*part.parameters(), *part.buffers()]:
                    weight.data = weight.data.clone()
    return opened


def _open(folder: Path) -> diffusers.DiffusionPipeline:
    """diffusers' pipeline of a folder, with the code that it brings, if it brings any."""
    brings = isinstance(diffusers.DiffusionPipeline.load_config(folder)["_class_name"], list)
    trusted = {"trust_remote_code": True} if brings else {}
    return diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True, **trusted)
