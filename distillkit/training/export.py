"""What a run leaves: its network as a pipeline."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch

from distillkit import distributed
from distillkit.files import replacing, writing
from distillkit.interfaces import Export
from distillkit.training.assemble import Parts


def export(parts: Parts, folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the trained network, with the averaged weights, as a pipeline.

    Args:
        parts: prepared.
        folder: the pipeline's. An adapter is written alone as well, beside it.
        rows: of scores.json, for the model card.

    Raises:
        DistillkitError: it cannot be written.
    """
    with parts.components.engine.averaged():
        network = copy.deepcopy(parts.student.network).cpu() if distributed.is_main_process() else None
    # What comes next may read it.
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
    )
    if components.student is not None:
        adapter = folder.with_name("lora")
        with writing(adapter), replacing(adapter) as temporary:
            components.model.export_adapter(network, temporary)
    # Last: where it is, the run is over.
    with writing(folder), replacing(folder) as temporary:
        components.model.export(network, temporary, about)


def _taught_steps(parts: Parts) -> int:
    """The smallest of the evaluated numbers of steps that a stage taught; the largest where none did."""
    taught = {stage.jumps for stage in parts.plan if stage.updates}
    steps = parts.components.evaluation.steps
    return min(taught.intersection(steps), default=max(steps))
