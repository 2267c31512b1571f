"""The kinds of pipelines that can be distilled, and which one a folder holds. Imports neither torch nor diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from distillkit.errors import DistillkitError

if TYPE_CHECKING:
    from distillkit_diffusers.families.family import Family
    from distillkit_diffusers.folder import PipelineFolder

PIPELINES = {
    "DDPMPipeline": "pixel.Pixel",
    "DDIMPipeline": "pixel.Pixel",
    "ClassConditionalPipeline": "pixel.Pixel",
    "ClassLatentPipeline": "class_latent.ClassLatent",
    "ConsistencyModelPipeline": "edm.Edm",
    "LDMPipeline": "latent.Latent",
    "StableDiffusionPipeline": "stable_diffusion.StableDiffusion",
    "StableDiffusionXLPipeline": "sdxl.StableDiffusionXL",
    "StableDiffusion3Pipeline": "sd3.StableDiffusion3",
    "FluxPipeline": "flux.Flux",
    "DiTPipeline": "dit.Dit",
}
"""A pipeline's class, as model_index.json names it -> its family's module and class in this package."""

NETWORKS = {
    "UNet2DModel": "pixel.Pixel",
    "GuidedUNet2DModel": "pixel.Pixel",
}
"""The class of a network that lies in a folder without a pipeline -> its family."""


PIXEL_SCHEDULERS = {"EDMEulerScheduler": "edm.Edm", "EDMDPMSolverMultistepScheduler": "edm.Edm"}
"""Schedulers with which a network in pixel space is of another family."""


def family_of(folder: PipelineFolder | None, scheduler: Mapping[str, Any]) -> type[Family]:
    """The family of what is in a folder; None is a new network.

    Args:
        folder: where the pipeline is.
        scheduler: its noise schedule, as in scheduler_config.json.

    Raises:
        DistillkitError: the folder holds no pipeline, or one of a class that no family is for.
    """
    place = NETWORKS["UNet2DModel"] if folder is None else _place(folder)
    if place == "pixel.Pixel":
        place = PIXEL_SCHEDULERS.get(scheduler.get("_class_name", ""), place)
    module, name = place.split(".")
    family: type[Family] = getattr(import_module(f"{__name__}.{module}"), name)
    return family


def _place(folder: PipelineFolder) -> str:
    folder.check_there()
    if (pipeline := folder.pipeline_class) is not None:
        if pipeline not in PIPELINES:
            raise DistillkitError(
                f"{folder.path / 'model_index.json'}: the pipeline is a {pipeline}; supported: {', '.join(PIPELINES)}"
            )
        return PIPELINES[pipeline]
    network = folder.network_class
    if network not in NETWORKS:
        raise DistillkitError(
            f"{folder.path}: the network is a {network}, without a pipeline's model_index.json; supported without: "
            f"{', '.join(NETWORKS)}"
        )
    return NETWORKS[network]
