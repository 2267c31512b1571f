"""LoRA (Hu et al. 2022) on diffusers' networks, with peft."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import peft
import safetensors.torch
import torch

from distillkit.errors import DistillkitError
from distillkit.interfaces import StudentTable

FILE = "pytorch_lora_weights.safetensors"
"""What diffusers' `load_lora_weights` looks for in a folder."""
INCOMPLETE = """# A LoRA that is not complete

The network was told how far it jumps, by an embedding that this format cannot carry: without it, no number of steps is
right. Use the pipeline beside it, whose biases have the embedding for its number of steps; or copy the biases of every
`linear_2` of the pipeline's network into the network that this is loaded on, which is then right for that number alone.
"""
"""The card of the LoRA of a network with an input of its own."""
ADAPTER = "default"
OWN = re.compile(r"step_embedding\..*")
"""The names of layers that are new, and trained whole beside an adapter: those of the step input."""


def add(network: torch.nn.Module, student: StudentTable) -> None:
    """Add low-rank matrices to linear and convolution layers; afterwards they alone need a gradient.

    Raises:
        DistillkitError: no layer has a name in `target_modules`.
    """
    layers = torch.nn.Linear | torch.nn.Conv2d
    names = [name for name, layer in network.named_modules() if isinstance(layer, layers) and not OWN.match(name)]
    targets = names if student.target_modules is None else list(student.target_modules)
    for target in targets:
        # As peft compares.
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise DistillkitError(
                f"student.target_modules: no linear or convolution layer of the network is called '{target}'; they are "
                f"called {', '.join(dict.fromkeys(map(_ending, names)))}, or in full as '{names[-1]}'"
            )
    # peft takes a float, too.
    alpha = cast(int, student.rank if student.alpha is None else student.alpha)
    # peft complains if it finds nothing to leave out.
    own = OWN.pattern if hasattr(network, "step_embedding") else None
    config = peft.LoraConfig(r=student.rank, lora_alpha=alpha, target_modules=targets, exclude_modules=own)
    peft.inject_adapter_in_model(config, network, ADAPTER)


def _ending(name: str) -> str:
    """The last part of a layer's name: "to_q", "to_out.0"."""
    return re.sub(r".*\.(?=[^.\d])", "", name)


def fuse(network: torch.nn.Module) -> None:
    """Merge the matrices into the weights and remove them, in place. Does nothing to a network without an adapter."""
    for name, layer in [*network.named_modules()]:
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            layer.merge()
            network.set_submodule(name, layer.get_base_layer())
    vars(network).pop("peft_config", None)


def write(network: torch.nn.Module, part: str, folder: Path) -> None:
    """Write the matrices in diffusers' format.

    B is multiplied by alpha/rank, as many readers assume that alpha equals the rank.

    Args:
        network: with an adapter.
        part: the name of the network in pipelines: "unet" or "transformer".
        folder: created if it does not exist.
    """
    config: peft.LoraConfig = network.peft_config[ADAPTER]  # type: ignore[index, assignment]
    factor = {"lora_A": 1.0, "lora_B": config.lora_alpha / config.r}
    weights = {
        f"{part}.{key}": (weight * factor[key.split(".")[-2]]).contiguous()
        for key, weight in peft.get_peft_model_state_dict(network, adapter_name=ADAPTER).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, folder / FILE, metadata={"format": "pt"})
    if any(OWN.match(name) for name, _ in network.named_modules()):
        (folder / "README.md").write_text(INCOMPLETE, encoding="utf-8")
