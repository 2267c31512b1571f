"""Loads and builds diffusers' networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from distillkit.errors import DistillkitError
from distillkit_diffusers import pipelines


def load(folder: Path, network_class: Any) -> torch.nn.Module:
    """Load a network, float32, on the CPU. Reads safetensors only.

    Args:
        folder: the network's own.
        network_class: one of diffusers' classes.

    Raises:
        DistillkitError: diffusers cannot load it, or weights are missing.
    """
    weights = list(folder.glob("*.safetensors"))
    variant = "fp16" if weights and all(".fp16" in file.name for file in weights) else None
    try:
        network, found = network_class.from_pretrained(
            folder,
            variant=variant,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise DistillkitError(f"model.path: diffusers cannot load the network in {folder}: {error}") from error
    # diffusers would initialise them at random.
    if missing := sorted(found["missing_keys"]):
        raise DistillkitError(
            f"model.path: the weights in {folder} are not whole: {missing[0]} is missing, of {len(missing)}; get "
            "the folder anew"
        )
    loaded: torch.nn.Module = network.float()
    return loaded


def load_frozen(folder: Path, network_class: Any) -> torch.nn.Module:
    """Load a part that is not trained: in evaluation mode, without gradients."""
    return load(folder, network_class).requires_grad_(False).eval()


def load_unet(folder: Path) -> torch.nn.Module:
    """Load a `UNet2DModel`, or the subclass with an input for the guidance scale."""
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    guided = written.get("_class_name") == "GuidedUNet2DModel"
    return load(folder, pipelines.guided_unet.GuidedUNet2DModel if guided else diffusers.UNet2DModel)


def build(arguments: dict[str, Any]) -> torch.nn.Module:
    """Build a `UNet2DModel` with random weights.

    Raises:
        DistillkitError: it does not take the arguments.
    """
    try:
        network: torch.nn.Module = diffusers.UNet2DModel(**arguments)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise DistillkitError(f"model.network: UNet2DModel does not take these arguments: {error}") from error
    return network


def with_guidance_input(network: torch.nn.Module, scales: tuple[float, float]) -> torch.nn.Module:
    """Add an input for the guidance scale, with weights of zero, to a class-conditional `UNet2DModel`.

    Args:
        network: its weights are copied.
        scales: the lowest and the highest scale.
    """
    arguments = {key: value for key, value in config(network).items() if not key.startswith("_")}
    guided: torch.nn.Module = pipelines.guided_unet.GuidedUNet2DModel(guidance_range=scales, **arguments)
    guided.load_state_dict(network.state_dict(), strict=False)
    return guided


def config(network: torch.nn.Module) -> dict[str, Any]:
    """The arguments that the network was built with."""
    return dict(network.config)  # type: ignore[arg-type]


def check(config: dict[str, Any]) -> None:
    """Check a U-Net's config.

    Raises:
        DistillkitError: networks of this kind are not supported.
    """
    channels_in, channels_out = config["in_channels"], config["out_channels"]
    if channels_in != channels_out:
        raise DistillkitError(
            f"model: the network makes {channels_out} channels of {channels_in}; expected as many (networks that also "
            "predict a variance are not supported)"
        )
    if (embedding := config["class_embed_type"]) is not None:
        raise DistillkitError(
            f"model: the network's class_embed_type is '{embedding}'; supported: none, with or without num_class_embeds"
        )


def sample_shape(config: dict[str, Any]) -> tuple[int, int, int]:
    """(C, H, W) of the samples that a U-Net takes.

    Raises:
        DistillkitError: the config does not say.
    """
    size = config["sample_size"]
    if size is None:
        raise DistillkitError("model.network: sample_size (the pictures' size in pixels) is required")
    height, width = (size, size) if isinstance(size, int) else size
    return config["in_channels"], height, width
