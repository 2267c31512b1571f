"""Writes a trained network as a pipeline folder that diffusers loads without distillkit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline
from torch import nn

from distillkit.interfaces import Export
from distillkit.noise import PredictionType, TablePath
from distillkit_diffusers import class_conditional, guided_unet, networks, schedulers
from distillkit_diffusers.card import model_card


def write(
    network: nn.Module,
    scheduler_config: dict[str, Any],
    path: TablePath,
    kind: PredictionType,
    null_class: int | None,
    folder: Path,
    export: Export,
) -> None:
    """Write the pipeline aside, then rename it into place: diffusers' own saving is not atomic."""
    scheduler = schedulers.write(path, kind, scheduler_config, export.steps, export.sampler)
    config = networks.config(network)
    conditional = config["num_class_embeds"] is not None
    if conditional:
        pipeline = class_conditional.ClassConditionalPipeline(
            network, scheduler, export.steps, export.guidance, null_class
        )
    else:
        # DDIMPipeline turns any scheduler into a DDIM one; DDPMPipeline takes them as they are.
        stock = DDIMPipeline if isinstance(scheduler, DDIMScheduler) else DDPMPipeline
        pipeline = stock(network, scheduler)
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    pipeline.save_pretrained(aside)
    if conditional:
        _ship_pipeline_class(aside)
    exact = schedulers.is_exact(path, export.steps)
    card = model_card(export, type(pipeline).__name__, conditional, exact, config.get("guidance_range"))
    (aside / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def _ship_pipeline_class(folder: Path) -> None:
    """diffusers has no pipeline for these, and no network that is told a guidance scale: put their classes beside the
    weights, and their names into the index."""
    source = Path(class_conditional.__file__)
    shutil.copyfile(source, folder / source.name)
    index = folder / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    content["_class_name"] = [source.stem, class_conditional.ClassConditionalPipeline.__name__]
    for part in ("unet", "scheduler"):
        content[part][0] = "diffusers"
    if content["unet"][1] == guided_unet.GuidedUNet2DModel.__name__:
        network = Path(guided_unet.__file__)
        shutil.copyfile(network, folder / "unet" / network.name)
        content["unet"][0] = network.stem
    index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
