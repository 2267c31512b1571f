"""FSDP2: a network's weights, gradients and optimiser state, spread over the processes.

The functions on single weights take plain ones as well, which are their own local part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from distillkit import workers


def shard(network: nn.Module, device: torch.device) -> None:
    """Spread a network on `device`. The blocks that its lists have are gathered one at a time."""
    mesh = init_device_mesh(device.type, (workers.count(),))
    for module in [*network.modules()]:
        if isinstance(module, nn.ModuleList):
            for block in module:
                # The blocks within a block come with it.
                if not _within(network, block):
                    fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def _within(network: nn.Module, block: nn.Module) -> bool:
    return any(block in [*other.modules()] for other in network.modules() if isinstance(other, FSDPModule))


def synchronise(network: nn.Module, on: bool) -> None:
    """Whether the next backward pass adds the processes' gradients up."""
    assert isinstance(network, FSDPModule)
    network.set_requires_gradient_sync(on)


def local(weight: Tensor) -> Tensor:
    """This process's part, in the same memory."""
    part: Tensor = weight.to_local() if isinstance(weight, DTensor) else weight
    return part.detach()


def whole(weight: Tensor) -> Tensor:
    """All of it, in all processes."""
    full: Tensor = weight.full_tensor() if isinstance(weight, DTensor) else weight
    return full.detach()


def fill(weight: Tensor, value: Tensor) -> None:
    """Make a weight equal to the whole `value`, which all processes have."""
    if isinstance(weight, DTensor):
        value = distribute_tensor(value, weight.device_mesh, weight.placements, src_data_rank=None).to_local()
    local(weight).copy_(value)
