"""Loads and builds diffusers' networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import diffusers
import torch

from distillkit.errors import DistillkitError
from distillkit_diffusers import pipelines
from distillkit_diffusers.candidates import beside
from distillkit_diffusers.reading import read_json
from distillkit_diffusers.weights import Weights


def load(weights: Weights, network_class: Any, as_saved: bool = False) -> torch.nn.Module:
    """Load a network on the CPU. Reads safetensors only.

    Args:
        weights: the files to read.
        network_class: one of diffusers' or transformers' classes.
        as_saved: whether it keeps the precision of its files (transformers' classes only); else it is float32.

    Raises:
        DistillkitError: it cannot be loaded, or weights are missing or not finite.
    """
    folder = weights.folder
    try:
        # transformers takes the config's word for the type, if it is not told.
        dtype = {"dtype": getattr(torch, weights.precision)} if as_saved else {}
        network, missing = (_read_wrapped if weights.wrapped else _read)(weights, network_class, dtype)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise DistillkitError(
            f"model.path: diffusers cannot load the network in {folder}: {error}{beside(folder, weights.variant)}"
        ) from error
    # diffusers would initialise them at random.
    if missing:
        example = next(iter(weights.shapes()))
        raise DistillkitError(
            f"model.path: the weights in {folder} are not whole: {sorted(missing)[0]} is missing, of {len(missing)} "
            f"(the files have names like {example}); get the folder anew{beside(folder, weights.variant)}"
        )
    loaded: torch.nn.Module = network if as_saved else network.float()
    _check_finite(loaded, weights)
    return loaded


def _read(weights: Weights, network_class: Any, dtype: Mapping[str, Any]) -> tuple[Any, Collection[str]]:
    """The network, and the names of the weights that the files lack."""
    network, found = network_class.from_pretrained(
        weights.folder,
        variant=weights.variant,
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=False,
        output_loading_info=True,
        **dtype,
    )
    return network, found["missing_keys"]


def _read_wrapped(weights: Weights, network_class: Any, dtype: Mapping[str, Any]) -> tuple[Any, Collection[str]]:
    """The same from files with a wrapper's names, which the libraries do not read."""
    state = weights.tensors()
    if issubclass(network_class, diffusers.ModelMixin):
        network = network_class.from_config(network_class.load_config(weights.folder))
        return network, network.load_state_dict(state, strict=False).missing_keys
    config = network_class.config_class.from_pretrained(weights.folder)
    network, found = network_class.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, **dtype
    )
    return network, found["missing_keys"]


def _check_finite(network: torch.nn.Module, weights: Weights) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        DistillkitError: one is.
    """
    for name, values in network.state_dict().items():
        if not values.isfinite().all():
            count = values.numel() - int(values.isfinite().sum())
            raise DistillkitError(
                f"model.path: {weights.file_of(name)}: {name} has {count} values that are NaN or infinite, of "
                f"{values.numel()}; get the file anew{beside(weights.folder, weights.variant)}"
            )


def load_frozen(weights: Weights, network_class: Any, as_saved: bool = False) -> torch.nn.Module:
    """Load a part that is not trained: in evaluation mode, without gradients."""
    return load(weights, network_class, as_saved).requires_grad_(False).eval()


def load_unet(weights: Weights) -> torch.nn.Module:
    """Load a `UNet2DModel`, or the subclass with an input for the guidance scale."""
    written = read_json(weights.folder / "config.json")
    guided = written.get("_class_name") == "GuidedUNet2DModel"
    return load(weights, pipelines.guided_unet.GuidedUNet2DModel if guided else diffusers.UNet2DModel)


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
