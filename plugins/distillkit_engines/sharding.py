"""Sharded weights: FSDP2, and unsharded copies of sharded networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed.device_mesh
import torch.distributed.fsdp
import torch.distributed.tensor

from distillkit import distributed


def shard_network(network: torch.nn.Module, device: torch.device) -> torch.distributed.fsdp.FSDPModule:
    """Shard a network on `device` (FSDP2). Its blocks, the modules in its `ModuleList`s, are gathered one at a time."""
    mesh = torch.distributed.device_mesh.init_device_mesh(device.type, (distributed.world_size(),))
    for module in [*network.modules()]:
        if isinstance(module, torch.nn.ModuleList):
            for block in module:
                # The blocks within a block come with it.
                if not _within(network, block):
                    torch.distributed.fsdp.fully_shard(block, mesh=mesh)
    return torch.distributed.fsdp.fully_shard(network, mesh=mesh)


def _within(network: torch.nn.Module, block: torch.nn.Module) -> bool:
    return any(
        block in [*other.modules()]
        for other in network.modules()
        if isinstance(other, torch.distributed.fsdp.FSDPModule)
    )


def local_shard(weight: torch.Tensor) -> torch.Tensor:
    """This process's shard of a DTensor, in the same memory; a plain tensor is its own."""
    part: torch.Tensor = weight.to_local() if isinstance(weight, torch.distributed.tensor.DTensor) else weight
    return part.detach()


def unshard(weight: torch.Tensor) -> torch.Tensor:
    """A DTensor's full value, in every process; a plain tensor itself."""
    full: torch.Tensor = weight.full_tensor() if isinstance(weight, torch.distributed.tensor.DTensor) else weight
    return full.detach()


def fill(weight: torch.Tensor, value: torch.Tensor) -> None:
    """Set a weight to the full `value`, which every process has."""
    if isinstance(weight, torch.distributed.tensor.DTensor):
        value = torch.distributed.tensor.distribute_tensor(
            value, weight.device_mesh, weight.placements, src_data_rank=None
        ).to_local()
    local_shard(weight).copy_(value)


class Replica:
    """An unsharded float32 copy that replaces a sharded network during evaluations and exports.

    Hooks that an engine puts on the network see updates only. ZeRO-3's trace of which weights to prefetch, for one,
    stays that of the updates.

    Args:
        module: the module that holds the network, at any depth.
        network: in float32, before the engine shards it. Its weights that are not trained are kept on the host.
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
        """Inside, a copy of the network with the trained `weights`, by name, replaces it."""
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
