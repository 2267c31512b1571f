"""Exports the trained network as a pipeline."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch

from distillkit import distributed
from distillkit.files import replacing, writing
from distillkit.interfaces import Export
from distillkit.registry import wrong
from distillkit.training.assemble import Parts


def export(parts: Parts, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the trained network, with the averaged weights, as a pipeline.

    Args:
        parts: the prepared parts of the run.
        folder: the pipeline's folder. An adapter is also written to the folder lora/ beside it.
        rows: the rows of scores.json, for the model card.

    Raises:
        DistillkitError: the pipeline cannot be written.
    """
    with parts.components.engine.averaged():
        network = copy.deepcopy(parts.student.network).cpu() if distributed.is_main_process() else None
    # All ranks wait for the pipeline, because the next phase reads it.
    distributed.on_main_process(lambda: _write(cast(torch.nn.Module, network), parts, folder, rows), folder)


def _write(network: torch.nn.Module, parts: Parts, folder: Path, rows: list[dict[str, Any]]) -> None:
    components, evaluation = parts.components, parts.components.evaluation
    about = Export(
        path=parts.student.path,
        steps=evaluation.export_steps or _taught_steps(parts),
        served=evaluation.steps,
        guidance=evaluation.guidance,
        method=components.run.method,
        teacher=components.model.spec.label,
        scores=rows,
        settings=components.tables,
        sampler=evaluation.sampler,
        baked=components.baked_scale,
    )
    if components.adapter is not None:
        adapter = folder.with_name("lora")
        with writing(adapter), replacing(adapter) as temporary:
            components.model.export_adapter(network, temporary)
            if not (temporary.is_dir() and any(temporary.iterdir())):
                raise wrong(components.model, "export_adapter()", "no files", "a folder with the adapter")
    # The pipeline comes last: a run whose folder has one is finished.
    with writing(folder), replacing(folder) as temporary:
        components.model.export(network, temporary, about)
        if not (temporary.is_dir() and any(temporary.iterdir())):
            raise wrong(components.model, "export()", "no files", "a folder with the network")


def _taught_steps(parts: Parts) -> int:
    """The smallest of the evaluated numbers of steps that are taught; the largest if none is."""
    taught = {*parts.components.source.levels} or {stage.jumps for stage in parts.plan if stage.updates}
    steps = parts.components.evaluation.steps
    return min(taught.intersection(steps), default=max(steps))
