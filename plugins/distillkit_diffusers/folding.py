"""Exports networks that were given inputs: folded for one number of steps, or with a table for several."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from distillkit.interfaces import Export, GuidanceInput
from distillkit.noise import GUIDANCE, STEP_SIZE
from distillkit_diffusers import pipelines, step_input
from distillkit_diffusers.reading import read_json

PART = "step_table"
"""The part of such a pipeline that has what differs, and the name of its code."""


def export(family: Any, network: torch.nn.Module, folder: Path, export: Export, taken: GuidanceInput | None) -> None:
    """Write a pipeline of diffusers', and beside it what `step_input.restore` needs.

    Args:
        family: the model's family.
        network: without an adapter, on the CPU; its inputs are folded in place.
        folder: as for `Model.export`.
        export: the export.
        taken: the range of guidance scales that the network is told; None if it is told none.
    """
    # Every step of consistency sampling is a jump to the end.
    ends = export.sampler == "consistency"
    told = {
        steps: {STEP_SIZE: 1.0 if ends else 1 / steps, GUIDANCE: export.guidance}
        for steps in (export.steps, *export.several)
    }
    biases = {steps: step_input.biases(network, told[steps]) for steps in export.several}
    scaled = GUIDANCE in step_input.added(network)
    state = step_input.fold(network, told[export.steps])
    if scaled and taken is not None:
        state[step_input.SCALES] = torch.tensor([taken.low, taken.high, export.guidance], dtype=torch.float64)
        export = replace(export, guidance=1.0, baked=export.guidance)
    family.export(network, folder, export)
    safetensors.torch.save_file(state, folder / step_input.FILE)
    if biases:
        _add_table(folder, family, biases, export)


def _add_table(folder: Path, family: Any, biases: Mapping[int, Mapping[str, torch.Tensor]], export: Export) -> None:
    """Add the table of what differs between the numbers of steps, and the code that reads it.

    Args:
        folder: the exported pipeline's.
        family: its family.
        biases: for each number of steps, by the name of a layer of the network: [D].
        export: the export.
    """
    schedulers, times = {}, {}
    for steps in biases:
        scheduler, sampling = family.write_scheduler(replace(export, steps=steps))
        schedulers[str(steps)] = {**scheduler.config, "_class_name": type(scheduler).__name__}
        times[str(steps)] = {**sampling.times.get(steps, {})}
    layers = {name: len(bias) for name, bias in next(iter(biases.values())).items()}
    table = pipelines.step_table.StepTable(family.distilled, [*biases], layers, schedulers, times)
    for i, name in enumerate(layers):
        setattr(table, f"biases_{i}", torch.stack([biases[steps][name] for steps in biases]))
    table.save_pretrained(folder / PART)
    index = read_json(folder / "model_index.json")
    found = index["_class_name"]
    module = "any_steps"
    if isinstance(found, list):
        module, found = "any_steps_classes", found[1]
    elif found == "DDIMPipeline" and {one["_class_name"] for one in schedulers.values()} != {"DDIMScheduler"}:
        found = "DDPMPipeline"  # which hands its scheduler nothing that only DDIM knows
    for name in {"any_steps", module}:
        _copy(name, folder)
    _copy(PART, folder / PART)
    index |= {"_class_name": [module, found], PART: [PART, "StepTable"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copy(module: str, folder: Path) -> None:
    shutil.copyfile(Path(str(getattr(pipelines, module).__file__)), folder / f"{module}.py")
