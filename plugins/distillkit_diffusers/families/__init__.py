"""The kinds of pipelines that can be distilled, and which one a folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillkit.errors import DistillkitError
from distillkit_diffusers import candidates
from distillkit_diffusers.families import edm
from distillkit_diffusers.families.dit import Dit
from distillkit_diffusers.families.edm import Edm
from distillkit_diffusers.families.family import Family
from distillkit_diffusers.families.flux import Flux
from distillkit_diffusers.families.latent import ClassLatent, Latent
from distillkit_diffusers.families.stable_diffusion import StableDiffusion, StableDiffusion3, StableDiffusionXL
from distillkit_diffusers.families.unet import Pixel
from distillkit_diffusers.folder import PipelineFolder

PIPELINES: dict[str, type[Family]] = {
    "DDPMPipeline": Pixel,
    "DDIMPipeline": Pixel,
    "ClassConditionalPipeline": Pixel,
    "ClassLatentPipeline": ClassLatent,
    "ConsistencyModelPipeline": Edm,
    "LDMPipeline": Latent,
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "DiTPipeline": Dit,
}
"""The class of a pipeline, as named in model_index.json -> its family."""

NETWORKS: dict[str, type[Family]] = {
    "UNet2DModel": Pixel,
    "GuidedUNet2DModel": Pixel,
}
"""The class of a network in a folder without a pipeline -> its family."""


def family_of(folder: PipelineFolder | None, scheduler: Mapping[str, Any]) -> type[Family]:
    """The family of a pipeline, a bare network, or a new network.

    Args:
        folder: the folder of the pipeline or network; None for a new network.
        scheduler: the noise schedule, as in scheduler_config.json.

    Raises:
        DistillkitError: the folder holds no pipeline, or one that is not supported.
    """
    family = NETWORKS["UNet2DModel"] if folder is None else _family_in(folder)
    if family is Pixel and scheduler.get("_class_name") in edm.SCHEDULERS:
        return Edm
    return family


def _family_in(folder: PipelineFolder) -> type[Family]:
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
            f"{', '.join(NETWORKS)}{candidates.around(folder.part('unet'))}"
        )
    return NETWORKS[network]
