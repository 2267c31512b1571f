"""Loads and builds diffusers' networks."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import diffusers
import torch

from distillkit import distributed
from distillkit.errors import DistillkitError
from distillkit_diffusers import pipelines
from distillkit_diffusers.candidates import beside
from distillkit_diffusers.headers import Weights, check_type
from distillkit_diffusers.libraries import quiet
from distillkit_diffusers.reading import read_json

_logger = logging.getLogger(__name__)

Read = tuple[Any, Collection[str], Collection[str]]
"""A network, the names of the weights that the files lack, and of those that it does not use."""


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
        with quiet():
            _check_fits(weights, _empty(weights, network_class))
            read = _read_wrapped if weights.wrapped else _read
            network, missing, unused = read(weights, network_class, dtype)
    except DistillkitError:
        raise
    # They raise whatever the libraries below them do.
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DistillkitError(
            f"model.path: diffusers cannot load the network in {folder}: {reason}{beside(folder, weights.variant)}"
        ) from error
    # The libraries would leave them at random.
    if missing:
        raise DistillkitError(
            f"model.path: the weights in {folder} are not whole: {sorted(missing)[0]} is missing, of {len(missing)}"
            f"{_why(weights, missing)}{beside(folder, weights.variant)}"
        )
    if unused and distributed.is_main_process():
        example = sorted(unused)[0]
        _logger.warning("model.path: %s: weights that are not used: %d, such as %s", folder, len(unused), example)
    loaded: torch.nn.Module = network if as_saved else network.float()
    _check_finite(loaded, weights)
    return loaded


def _empty(weights: Weights, network_class: Any) -> torch.nn.Module:
    """The network of the folder's config.json on the "meta" device."""
    with torch.device("meta"):
        if issubclass(network_class, diffusers.ModelMixin):
            network = network_class.from_config(network_class.load_config(weights.folder))
        else:
            network = network_class(network_class.config_class.from_pretrained(weights.folder))
    made: torch.nn.Module = network
    return made


def _check_fits(weights: Weights, network: torch.nn.Module) -> None:
    """Check the shapes and the types of weights. Those that the libraries rename are left to them.

    Args:
        weights: the files.
        network: on the "meta" device.

    Raises:
        DistillkitError: the network has other shapes, or a weight is quantized.
    """
    for name, values in network.state_dict().items():
        if (entry := weights.entries.get(name)) is None:
            continue
        if list(values.shape) != entry.shape:
            raise DistillkitError(
                f"model.path: {entry.file}: {entry.name} has the shape {entry.shape}, and the network that "
                f"{weights.folder / 'config.json'} describes has {list(values.shape)} there; get both files from one "
                f"place{beside(weights.folder, weights.variant)}"
            )
        if values.is_floating_point():
            check_type(entry)


def _why(weights: Weights, missing: Collection[str]) -> str:
    """What the names in the files tell of weights that they lack, as the middle of a sentence."""
    names = [*weights.entries]
    first = min(missing)
    prefix = next((name.removesuffix(first) for name in names if name.endswith(f".{first}")), "")
    if prefix and all(name.startswith(prefix) for name in names):
        return (
            f', because every name in the files begins with "{prefix}", as where a training script (PyTorch '
            "Lightning) saves the module that holds the network; write the network itself with save_pretrained"
        )
    return f" (the files have names like {names[0]}); get the folder anew"


def _read(weights: Weights, network_class: Any, dtype: Mapping[str, Any]) -> Read:
    """Read files that have the network's own names."""
    network, found = network_class.from_pretrained(
        weights.folder,
        variant=weights.variant,
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=False,
        output_loading_info=True,
        **dtype,
    )
    return network, found["missing_keys"], found["unexpected_keys"]


def _read_wrapped(weights: Weights, network_class: Any, dtype: Mapping[str, Any]) -> Read:
    """The same from files with a wrapper's names, which the libraries do not read."""
    state = weights.tensors()
    if issubclass(network_class, diffusers.ModelMixin):
        network = network_class.from_config(network_class.load_config(weights.folder))
        keys = network.load_state_dict(state, strict=False)
        return network, keys.missing_keys, keys.unexpected_keys
    config = network_class.config_class.from_pretrained(weights.folder)
    network, found = network_class.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, **dtype
    )
    return network, found["missing_keys"], found["unexpected_keys"]


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
