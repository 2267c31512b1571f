"""FSDP2: a network's weights, gradients and optimiser state, spread over the processes.

The functions on single weights take plain ones as well, which are their own local part.
"""

from __future__ import annotations

import torch
import torch.distributed.device_mesh
import torch.distributed.fsdp
import torch.distributed.tensor

from distillkit import distributed


def shard(network: torch.nn.Module, device: torch.device) -> None:
    """Spread a network on `device`. The blocks that its lists have are gathered one at a time."""
    mesh = torch.distributed.device_mesh.init_device_mesh(device.type, (distributed.world_size(),))
    for module in [*network.modules()]:
        if isinstance(module, torch.nn.ModuleList):
            for block in module:
                # The blocks within a block come with it.
                if not _within(network, block):
                    torch.distributed.fsdp.fully_shard(block, mesh=mesh)
    torch.distributed.fsdp.fully_shard(network, mesh=mesh)


def _within(network: torch.nn.Module, block: torch.nn.Module) -> bool:
    return any(
        block in [*other.modules()]
        for other in network.modules()
        if isinstance(other, torch.distributed.fsdp.FSDPModule)
    )


def synchronise(network: torch.nn.Module, on: bool) -> None:
    """Whether the next backward pass adds the processes' gradients up."""
    assert isinstance(network, torch.distributed.fsdp.FSDPModule)
    network.set_requires_gradient_sync(on)


def local(weight: torch.Tensor) -> torch.Tensor:
    """This process's part, in the same memory."""
    part: torch.Tensor = weight.to_local() if isinstance(weight, torch.distributed.tensor.DTensor) else weight
    return part.detach()


def whole(weight: torch.Tensor) -> torch.Tensor:
    """All of it, in all processes."""
    full: torch.Tensor = weight.full_tensor() if isinstance(weight, torch.distributed.tensor.DTensor) else weight
    return full.detach()


def fill(weight: torch.Tensor, value: torch.Tensor) -> None:
    """Make a weight equal to the whole `value`, which all processes have."""
    if isinstance(weight, torch.distributed.tensor.DTensor):
        value = torch.distributed.tensor.distribute_tensor(
            value, weight.device_mesh, weight.placements, src_data_rank=None
        ).to_local()
    local(weight).copy_(value)
