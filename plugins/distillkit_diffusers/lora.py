"""LoRA (Hu et al. 2022) on diffusers' networks, with peft."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import peft
import safetensors.torch
import torch

from distillkit.errors import DistillkitError
from distillkit.interfaces import StudentTable
from distillkit_diffusers import step_input
from distillkit_diffusers.headers import Weights
from distillkit_diffusers.reading import opened

FILE = "pytorch_lora_weights.safetensors"
"""What diffusers' `load_lora_weights` looks for in a folder."""
INCOMPLETE = """# A LoRA that is not complete

The network was told how far it jumps, by an embedding that this format cannot carry: without it, no number of steps is
right. Use the pipeline beside it, whose biases have the embedding for its number of steps; or copy the biases of every
`linear_2` of the pipeline's network into the network that this is loaded on, which is then right for that number alone.
"""
"""The card of the LoRA of a network with an input of its own."""
ADAPTER = "default"
OWN = re.compile(rf"({'|'.join(step_input.EMBEDDINGS.values())})\..*")
"""The names of layers that are new, and trained whole beside an adapter: those of the inputs."""


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
    own = OWN.pattern if step_input.added(network) else None
    config = peft.LoraConfig(r=student.rank, lora_alpha=alpha, target_modules=targets, exclude_modules=own)
    peft.inject_adapter_in_model(config, network, ADAPTER)


def added(network: torch.nn.Module) -> bool:
    """Whether a network has an adapter."""
    return hasattr(network, "peft_config")


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
    factor = _factors(network)
    weights = {
        f"{part}.{key}": (weight * factor[key.split(".")[-2]]).contiguous()
        for key, weight in peft.get_peft_model_state_dict(network, adapter_name=ADAPTER).items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(weights, folder / FILE, metadata={"format": "pt"})
    if any(OWN.match(name) for name, _ in network.named_modules()):
        (folder / "README.md").write_text(INCOMPLETE, encoding="utf-8")


def _factors(network: torch.nn.Module) -> dict[str, float]:
    """What the matrices are multiplied by where they are written."""
    config: peft.LoraConfig = network.peft_config[ADAPTER]  # type: ignore[index, assignment]
    return {"lora_A": 1.0, "lora_B": config.lora_alpha / config.r}


def read(network: torch.nn.Module, part: str, folder: Path) -> dict[str, torch.Tensor]:
    """The matrices that `write` wrote, as the network's own, by its names for them.

    Args:
        network: with an adapter.
        part: as for `write`.
        folder: that of the LoRA.

    Raises:
        DistillkitError: there are none, or they do not fit the adapter.
    """
    file = folder / FILE
    if not file.is_file():
        raise DistillkitError(
            f"the student is a LoRA, and there is no {file}; give the folder of a run whose student was one, or leave "
            "out student.adapter, which trains all weights"
        )
    factor, found = _factors(network), {}
    with opened(file, "pt") as content:
        for key in content.keys():  # noqa: SIM118  # it is no mapping
            layer, letter, _ = key.removeprefix(f"{part}.").rsplit(".", 2)
            found[f"{layer}.{letter}.{ADAPTER}.weight"] = content.get_tensor(key) / factor[letter]
    wanted = {name: weight.shape for name, weight in network.named_parameters() if f".{ADAPTER}." in name}
    if others := sorted(found.keys() ^ wanted.keys()):
        raise DistillkitError(
            f"{file} has matrices for other layers than the student: they differ in '{others[0].split('.lora_')[0]}'; "
            "set student.target_modules to those of the run that made it"
        )
    rank, own = ({shapes[name][0] for name in shapes if ".lora_A." in name} for shapes in (_shapes(found), wanted))
    if rank != own:
        raise DistillkitError(
            f"{file} has the rank {max(rank)}, and student.rank is {max(own)}; set student.rank = {max(rank)}"
        )
    return found


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}


def check_base(
    network: torch.nn.Module,
    matrices: Mapping[str, torch.Tensor],
    pipeline: Weights,
    biases: Mapping[str, torch.Tensor],
) -> None:
    """Check that a LoRA was made for this network: the pipeline beside it is the network with the LoRA merged.

    Args:
        network: with an adapter of the LoRA's form.
        matrices: the LoRA's, as `read` returned them.
        pipeline: its weights, which are read one after the other.
        biases: those that the pipeline has changed, as they were before, by its names.

    Raises:
        DistillkitError: it is not.
    """
    weights = {name.replace(".base_layer.", "."): weight for name, weight in network.named_parameters()}
    factor = _factors(network)["lora_B"]
    for name, entry in pipeline.entries.items():
        with opened(entry.file, "pt") as content:
            value = biases[name] if name in biases else content.get_tensor(entry.name)
        expected = None if name not in weights else weights[name].detach().cpu()
        layer = name.removesuffix(".weight")
        if expected is not None and (a := matrices.get(f"{layer}.lora_A.{ADAPTER}.weight")) is not None:
            b = matrices[f"{layer}.lora_B.{ADAPTER}.weight"]
            expected = expected + factor * (b.flatten(1) @ a.flatten(1)).view_as(expected)
        if expected is None or not torch.allclose(value.float(), expected, rtol=1e-4, atol=1e-5):
            raise DistillkitError(
                f"the LoRA beside {pipeline.folder.parent} was made for another network than the model: they differ in "
                f"'{name}'; give the model that its run had, or another start"
            )
