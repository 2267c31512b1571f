"""A plain twin of a network whose weights are spread over processes, for evaluations and export."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch


class Replica:
    """Takes the network's place while it is evaluated, so that no hook of an engine sees that.

    ZeRO-3's trace of what is fetched when, for one, stays that of the updates.

    Args:
        module: what holds the network, somewhere.
        network: float32, as the engine is about to take it. What is not trained of it is kept, in float32 on the host.
    """

    def __init__(self, module: torch.nn.Module, network: torch.nn.Module) -> None:
        self._network = network
        self._places = [
            (holder, name) for holder in module.modules() for name, child in holder.named_children() if child is network
        ]
        # What deepcopy finds here it takes as it is.
        kept: dict[int, object] = {id(buffer): buffer.cpu() for buffer in network.buffers()}
        for weight in network.parameters():
            data = weight.detach()
            kept[id(weight)] = torch.nn.Parameter(
                data.to("meta") if weight.requires_grad else data.cpu(), weight.requires_grad
            )
        self._shell = copy.deepcopy(network, kept)

    @contextmanager
    def filled(self, weights: Mapping[str, torch.Tensor], device: torch.device) -> Iterator[torch.nn.Module]:
        """Inside, the twin with the trained `weights`, by the network's names, is where the network was."""
        twin = copy.deepcopy(self._shell)
        twin.load_state_dict(weights, strict=False, assign=True)
        twin.to(device).train(self._network.training)
        self._put(twin)
        try:
            yield twin
        finally:
            self._put(self._network)

    def _put(self, network: torch.nn.Module) -> None:
        for holder, name in self._places:
            setattr(holder, name, network)
