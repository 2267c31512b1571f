"""Inputs for the step size and for the guidance scale, added to networks that were made without them.

Each has an embedding, which is added to what `linear_2` of every `TimestepEmbedding` gives, before any `post_act`. For
a given step size and scale that is a constant, so it can be folded into the bias of `linear_2`: what is left is a
network of the same class, which diffusers loads and which is right for one number of steps and one scale. The
embeddings begin as zero, so that the network begins as it was.

Shapes: B batch, D outputs of a `linear_2`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import pi
from typing import Any, cast

import diffusers
import torch

from distillkit.errors import DistillkitError
from distillkit.noise import GUIDANCE, STEP_SIZE

FILE = "step_input.safetensors"
"""A file in an exported folder, which diffusers does not read: the embeddings, and the biases without them."""
EMBEDDINGS = {STEP_SIZE: "step_embedding", GUIDANCE: "guidance_embedding"}
"""The inputs, and what their embeddings are called in the network."""
SCALES = "scales"
"""What the lowest and the highest guidance scale that the network was taught are called in that file, with the scale
that is folded into the biases: [3]."""
FREQUENCIES = 8
WIDTH = 128


class Told:
    """What the network is told at the present call.

    Attributes:
        features: of the numbers, by the name of the input: [B, 2 · FREQUENCIES].
    """

    features: Mapping[str, torch.Tensor]

    @contextmanager
    def telling(self, features: Mapping[str, torch.Tensor]) -> Iterator[None]:
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
    """The hook on a `linear_2`: adds the embedding of an input to its output, [B, D] or [B, …, D]."""

    def __init__(self, told: Told, name: str, hidden: torch.nn.Module, out: torch.nn.Module) -> None:
        self._told = told
        self._name = name
        self._hidden = hidden
        self._out = out

    def __call__(self, layer: torch.nn.Module, _: object, output: torch.Tensor) -> torch.Tensor:
        embedded = embed(self._told.features[self._name], self._hidden, self._out).to(output.dtype)
        return output + embedded.view(len(embedded), *[1] * (output.dim() - 2), -1)


def embed(features: torch.Tensor, hidden: torch.nn.Module, out: torch.nn.Module) -> torch.Tensor:
    """The embedding of features [B, 2 · FREQUENCIES], as one `linear_2` gets it: [B, D]."""
    weight = cast(torch.nn.Linear, hidden).weight
    embedded: torch.Tensor = out(torch.nn.functional.silu(hidden(features.to(weight.dtype))))
    return embedded


def features_of(values: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of log₂ of step sizes or guidance scales: [B], above 0 -> [B, 2 · FREQUENCIES].

    The periods are 16, 8, 16/3, …, 2: the longest tells 1 step from 1000, the shortest changes sign from N to 2N steps.
    """
    waves = torch.arange(1, FREQUENCIES + 1, device=values.device) * (pi / 8)
    angles = -values.float().log2().unsqueeze(1) * waves
    return torch.cat([angles.sin(), angles.cos()], 1)


def add(network: Any, name: str = STEP_SIZE) -> None:
    """Add an input, with an embedding of zero.

    Raises:
        DistillkitError: the network has no `TimestepEmbedding`.
    """
    layers = _layers(network)
    if not layers:
        key, what = {
            STEP_SIZE: ("model.step_input", "the step size is added; leave it out"),
            GUIDANCE: ("source.guidance", "the scale is added; give one scale"),
        }[name]
        raise DistillkitError(f"{key}: {type(network).__name__} has no TimestepEmbedding, to whose output {what}")
    hidden = torch.nn.Linear(2 * FREQUENCIES, WIDTH)
    # torch's own initialisation, but the same in every run: runs with other seeds share their teacher's trajectories.
    generator = torch.Generator().manual_seed(0)
    for parameter in hidden.parameters():
        torch.nn.init.uniform_(parameter, -((2 * FREQUENCIES) ** -0.5), (2 * FREQUENCIES) ** -0.5, generator=generator)
    outs = torch.nn.ModuleList([torch.nn.Linear(WIDTH, layer.out_features) for layer in layers.values()])
    for parameter in outs.parameters():
        torch.nn.init.zeros_(parameter)
    if not added(network):
        network.told = Told()
        if hasattr(network, "enable_gradient_checkpointing"):
            # Between the forward and the backward pass, the same network may be told something else.
            checkpoint = partial(
                torch.utils.checkpoint.checkpoint, use_reentrant=False, context_fn=network.told.contexts
            )
            network.enable_gradient_checkpointing = partial(network.enable_gradient_checkpointing, checkpoint)
    setattr(network, EMBEDDINGS[name], torch.nn.ModuleDict({"hidden": hidden, "outs": outs}))
    for layer, out in zip(layers.values(), outs, strict=True):
        layer.register_forward_hook(_Added(network.told, name, hidden, out))


def added(network: torch.nn.Module) -> list[str]:
    """The inputs that a network was given."""
    return [name for name, embedding in EMBEDDINGS.items() if embedding in network._modules]


def _layers(network: torch.nn.Module) -> dict[str, torch.nn.Linear]:
    """Every `linear_2`, by its name in the network; in a network with an adapter, the layer under it."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, diffusers.models.embeddings.TimestepEmbedding):
            layer: Any = module.linear_2
            found[f"{name}.linear_2"] = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
    return found


def telling(network: torch.nn.Module, told: Mapping[str, torch.Tensor]) -> AbstractContextManager[None]:
    """Inside, a network is called for these numbers, [B], of the inputs that it was given."""
    return cast(Told, network.told).telling({name: features_of(values) for name, values in told.items()})


def trainable(network: torch.nn.Module) -> None:
    """Train the embeddings beside an adapter."""
    for name in added(network):
        _embedding(network, name).requires_grad_(True)


def _embedding(network: torch.nn.Module, name: str) -> torch.nn.ModuleDict:
    return cast(torch.nn.ModuleDict, getattr(network, EMBEDDINGS[name]))


def shifts(network: torch.nn.Module, told: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """What a network that is told these numbers adds to the bias of each `linear_2`, by its name: [D]."""
    found: dict[str, torch.Tensor] = {}
    for name in added(network):
        embedding, features = _embedding(network, name), features_of(torch.tensor([told[name]]))
        outs = cast(torch.nn.ModuleList, embedding["outs"])
        for layer, out in zip(_layers(network), outs, strict=True):
            with torch.no_grad():
                shift = embed(features, embedding["hidden"], out)[0]
            found[layer] = found[layer] + shift if layer in found else shift
    return found


def biases(network: torch.nn.Module, told: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """The biases that `fold` makes, by the names of their layers: [D]. The network stays as it is."""
    layers = _layers(network)
    return {name: layers[name].bias.detach() + shift for name, shift in shifts(network, told).items()}


def fold(network: torch.nn.Module, told: Mapping[str, float]) -> dict[str, torch.Tensor]:
    """Fold the embeddings of a step size and a guidance scale into the biases, and remove the inputs, in place.

    Args:
        network: without an adapter, on the CPU.
        told: a number for each input that the network was given.

    Returns:
        what `restore` needs: the weights of the embeddings, and the biases without them.
    """
    state = {name: weight.detach().clone() for name, weight in _own(network).items()}
    for name, shift in shifts(network, told).items():
        layer = _layers(network)[name]
        with torch.no_grad():
            layer.bias.add_(shift)
        for key, hook in [*layer._forward_hooks.items()]:
            if isinstance(hook, _Added):
                del layer._forward_hooks[key]
    for name in added(network):
        delattr(network, EMBEDDINGS[name])
    for name in {"told", "enable_gradient_checkpointing"}.intersection(vars(network)):
        delattr(network, name)
    return state


def _own(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of the embeddings, and the biases that they are added to, by their names in the network."""
    own: dict[str, torch.Tensor] = {f"{name}.bias": layer.bias for name, layer in _layers(network).items()}
    for name in added(network):
        own |= _embedding(network, name).state_dict(prefix=f"{EMBEDDINGS[name]}.", keep_vars=True)
    return own


def named(keys: Iterable[str]) -> list[str]:
    """The inputs whose weights are among these names."""
    first = {key.partition(".")[0] for key in keys}
    return [name for name, embedding in EMBEDDINGS.items() if embedding in first]


def restore(network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Give a network whose embeddings were folded its inputs back: the inverse of `fold`.

    Raises:
        DistillkitError: the state is another network's.
    """
    for name in named(state):
        add(network, name)
    own = _own(network)
    if {key: value.shape for key, value in own.items()} != {
        key: value.shape for key, value in state.items() if key != SCALES
    }:
        raise DistillkitError(f"{FILE}: does not fit the network; take the file that was exported with it")
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(state[key])
