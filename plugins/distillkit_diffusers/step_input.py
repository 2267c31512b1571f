"""An input for the step size, added to networks that were made without one.

Its embedding is added to what `linear_2` of every `TimestepEmbedding` gives, before any `post_act`. For a given step
size that is a constant, so it can be folded into the bias of `linear_2`: what is left is a network of the same class,
which diffusers loads and which is right for one number of steps. The embedding begins as zero, so that the network
begins as it was.

Shapes: B batch, D outputs of a `linear_2`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import pi
from typing import Any, cast

import diffusers
import torch

from distillkit.errors import DistillkitError

FILE = "step_input.safetensors"
"""A file in an exported folder, which diffusers does not read: the embedding, and the biases without it."""
FREQUENCIES = 8
WIDTH = 128


class Told:
    """What the network is told at the present call.

    Attributes:
        features: of the step sizes, [B, 2 · FREQUENCIES].
    """

    features: torch.Tensor

    @contextmanager
    def telling(self, features: torch.Tensor) -> Iterator[None]:
        """Inside, the network is told these features."""
        before = vars(self).copy()
        self.features = features
        try:
            yield
        finally:
            vars(self).clear()
            vars(self).update(before)

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """For `torch.utils.checkpoint`: a recomputation is told what the first computation was told."""
        return nullcontext(), self.telling(self.features)


class _Added:
    """The hook on a `linear_2`: adds the embedding of the step size to its output, [B, D] or [B, …, D]."""

    def __init__(self, told: Told, hidden: torch.nn.Module, out: torch.nn.Module) -> None:
        self._told = told
        self._hidden = hidden
        self._out = out

    def __call__(self, layer: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        embedded = embed(self._told.features, self._hidden, self._out).to(output.dtype)
        return output + embedded.view(len(embedded), *[1] * (output.dim() - 2), -1)


def embed(features: torch.Tensor, hidden: torch.nn.Module, out: torch.nn.Module) -> torch.Tensor:
    """The embedding of features [B, 2 · FREQUENCIES], as one `linear_2` gets it: [B, D]."""
    weight = cast(torch.nn.Linear, hidden).weight
    embedded: torch.Tensor = out(torch.nn.functional.silu(hidden(features.to(weight.dtype))))
    return embedded


def features_of(step_size: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of log₂(1/step size): [B] in (0, 1] -> [B, 2 · FREQUENCIES].

    The periods are 16, 8, 16/3, …, 2: the longest tells 1 step from 1000, the shortest changes sign from N to 2N steps.
    """
    waves = torch.arange(1, FREQUENCIES + 1, device=step_size.device) * (pi / 8)
    angles = -step_size.float().log2().unsqueeze(1) * waves
    return torch.cat([angles.sin(), angles.cos()], 1)


def add(network: Any) -> None:
    """Add the input, with an embedding of zero.

    Raises:
        DistillkitError: the network has no `TimestepEmbedding`.
    """
    layers = _layers(network)
    if not layers:
        raise DistillkitError(
            f"model.step_input: {type(network).__name__} has no TimestepEmbedding, to whose output the step size is "
            "added; leave it out"
        )
    hidden = torch.nn.Linear(2 * FREQUENCIES, WIDTH)
    outs = torch.nn.ModuleList([torch.nn.Linear(WIDTH, layer.out_features) for layer in layers.values()])
    for parameter in outs.parameters():
        torch.nn.init.zeros_(parameter)
    network.step_embedding = torch.nn.ModuleDict({"hidden": hidden, "outs": outs})
    told = Told()
    network.told = told
    for layer, out in zip(layers.values(), outs, strict=True):
        layer.register_forward_hook(_Added(told, hidden, out))
    if hasattr(network, "enable_gradient_checkpointing"):
        # Between the forward and the backward pass, the same network may be told another size.
        checkpoint = partial(torch.utils.checkpoint.checkpoint, use_reentrant=False, context_fn=told.contexts)
        network.enable_gradient_checkpointing = partial(network.enable_gradient_checkpointing, checkpoint)


def _layers(network: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Every `linear_2`, by its name in the network; in a network with an adapter, the layer under it."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, diffusers.models.embeddings.TimestepEmbedding):
            layer: Any = module.linear_2
            found[f"{name}.linear_2"] = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return found


def telling(network: torch.nn.Module, step_size: torch.Tensor) -> AbstractContextManager[None]:
    """Inside, a network with the input is called for these step sizes, [B]."""
    return cast(Told, network.told).telling(features_of(step_size))


def trainable(network: torch.nn.Module) -> None:
    """Train the embedding beside an adapter."""
    cast(torch.nn.Module, network.step_embedding).requires_grad_(True)


def fold(network: torch.nn.Module, step_size: float) -> dict[str, torch.Tensor]:
    """Fold the embedding of one step size into the biases, and remove the input, in place.

    Args:
        network: without an adapter, on the CPU.
        step_size: in (0, 1].

    Returns:
        what `restore` needs: the weights of the embedding, and the biases without it.
    """
    embedding = cast(torch.nn.ModuleDict, network.step_embedding)
    state = {name: weight.detach().clone() for name, weight in embedding.state_dict().items()}
    outs = cast(torch.nn.ModuleList, embedding["outs"])
    features = features_of(torch.tensor([step_size]))
    for (name, layer), out in zip(_layers(network).items(), outs, strict=True):
        state[f"{name}.bias"] = layer.bias.detach().clone()
        with torch.no_grad():
            layer.bias.add_(embed(features, embedding["hidden"], out)[0])
        for key, hook in [*layer._forward_hooks.items()]:
            if isinstance(hook, _Added):
                del layer._forward_hooks[key]
    for name in ("step_embedding", "told", "enable_gradient_checkpointing"):
        if name in vars(network) or name == "step_embedding":
            delattr(network, name)
    return state


def restore(network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a network whose embedding was folded its input back: the inverse of `fold`.

    Raises:
        DistillkitError: the state is another network's.
    """
    add(network)
    biases = {f"{name}.bias": layer.bias for name, layer in _layers(network).items()}
    embedding = cast(torch.nn.Module, network.step_embedding).state_dict()
    wanted = {name: weight.shape for name, weight in (embedding | biases).items()}
    if wanted != {name: weight.shape for name, weight in state.items()}:
        raise DistillkitError(f"{FILE}: does not fit the network; take the file that was exported with it")
    with torch.no_grad():
        for name, bias in biases.items():
            bias.copy_(state[name])
    cast(torch.nn.Module, network.step_embedding).load_state_dict({name: state[name] for name in embedding})
