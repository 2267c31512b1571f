"""The float32 weights that DeepSpeed's optimisers step: where they are, and how they are made whole."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_local_fp32_param,
    safe_set_full_fp32_param,
    safe_set_local_fp32_param,
)

from distillkit import distributed


class Masters:
    """This process's part of the float32 weights.

    Args:
        engine: DeepSpeed's.
        network: what is trained.
        stage: of ZeRO.
    """

    def __init__(self, engine: Any, network: torch.nn.Module, stage: int) -> None:
        optimizer = engine.optimizer
        self._optimizer = optimizer
        self._stage = stage
        self._weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._own: dict[torch.nn.Parameter, torch.Tensor] = {}
        if stage == 3:
            self.shards: list[torch.Tensor] = optimizer.fp32_partitioned_groups_flat
        elif stage:
            # BF16_Optimizer has another name for them.
            self.shards = getattr(optimizer, "single_partition_of_fp32_groups", None) or (
                optimizer.fp32_groups_flat_partition
            )
        else:
            # Without ZeRO the weights themselves, or one in float32 for each.
            self._own = {weight: weight for weight in self._weights.values()}
            pairs = zip(getattr(optimizer, "fp16_groups", ()), getattr(optimizer, "fp32_groups", ()), strict=True)
            for low, high in pairs:
                self._own.update(zip(low, high, strict=True))
            self.shards = [*self._own.values()]

    def whole(self) -> dict[str, torch.Tensor]:
        """All of them, by the network's names. All processes call this together."""
        return {name: self._get(weight) for name, weight in self._weights.items()}

    def _get(self, weight: torch.nn.Parameter) -> torch.Tensor:
        full = self._own[weight] if self._own else safe_get_full_fp32_param(weight)
        assert full is not None  # it is trained
        return full.detach()

    @torch.no_grad()
    def fill(self, values: dict[str, torch.Tensor]) -> None:
        """Make them equal to whole `values`, which all processes have."""
        for name, weight in self._weights.items():
            value = values[name]
            if self._own:
                self._own[weight].copy_(value)
            elif self._stage == 3:
                # The last process's part is padded, which DeepSpeed's function for the whole does not allow for.
                size = safe_get_local_fp32_param(weight).numel()
                padded = functional.pad(value.flatten(), (0, size * distributed.world_size() - value.numel()))
                safe_set_local_fp32_param(weight, distributed.shard(padded))
            else:
                safe_set_full_fp32_param(weight, value)

    @torch.no_grad()
    def show(self) -> None:
        """Make the network's weights equal to these, in its own precision. All processes call this together."""
        optimizer = self._optimizer
        if self._stage < 3:
            for weight in self._weights.values():
                weight.copy_(self._get(weight))
            return
        # What its `step` does after each part of the weights, and at its end.
        optimizer._partition_all_parameters()
        for i in range(len(self.shards)):
            optimizer._reassign_or_swap_out_partitioned_parameters(i)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
