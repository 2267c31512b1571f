"""DeepSpeed's start, and the float32 weights that its optimisers update. Imports DeepSpeed, an optional dependency."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from typing import Any

import deepspeed
import deepspeed.utils
import torch
import torch.distributed

from distillkit import distributed

SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""The attributes of DeepSpeed's loss scalers that change."""


def initialize(
    module: torch.nn.Module, optimizer: torch.optim.Optimizer, config: dict[str, Any], device: torch.device
) -> Any:
    """`deepspeed.initialize` without its messages.

    Args:
        module: contains the trained network.
        optimizer: has the trained weights.
        config: DeepSpeed's.
        device: this process's.

    Returns:
        DeepSpeed's engine.
    """
    if distributed.world_size() == 1 and not torch.distributed.is_initialized():
        # It needs a process group, and the number of its GPU in the environment, even for a single process.
        os.environ.setdefault("LOCAL_RANK", "0")
        backend = "nccl" if device.type == "cuda" else "gloo"
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    # Every update calls functions that are deprecated in newer versions of torch.
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)
    # It prints a line about each of its parts, and warns that torch's AdamW is untested with ZeRO.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


class MasterWeights:
    """This process's shards of the float32 weights that DeepSpeed's optimisers update.

    Args:
        engine: DeepSpeed's.
        network: the trained network, which DeepSpeed has in its own precision.
        stage: of ZeRO.
    """

    def __init__(self, engine: Any, network: torch.nn.Module, stage: int) -> None:
        optimizer = engine.optimizer
        self._network, self._optimizer, self._stage = network, optimizer, stage
        self._weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._own: dict[torch.nn.Parameter, torch.Tensor] = {}
        if stage == 3:
            self.shards: list[torch.Tensor] = optimizer.fp32_partitioned_groups_flat
            self._clear_padding()
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

    @torch.no_grad()
    def _clear_padding(self) -> None:
        """Set what pads the last process's shards to 0. DeepSpeed does not: checkpoints would differ by chance."""
        for weight in self._weights.values():
            own = deepspeed.utils.safe_get_local_fp32_param(weight)
            whole = weight.ds_numel  # type: ignore[attr-defined]
            inside = torch.arange(own.numel() * distributed.world_size(), device=own.device) < whole
            deepspeed.utils.safe_set_local_fp32_param(weight, torch.where(distributed.shard(inside), own, 0))

    def unsharded(self) -> dict[str, torch.Tensor]:
        """All of them in full, by the network's names. Collective."""
        return {name: self._get(weight) for name, weight in self._weights.items()}

    def gathered(self) -> AbstractContextManager[Any]:
        """Inside, the network's weights can be read in every process. Collective."""
        if self._stage < 3:
            return nullcontext()
        gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([*self._network.parameters()])
        return gathered

    def _get(self, weight: torch.nn.Parameter) -> torch.Tensor:
        full: torch.Tensor = self._own[weight] if self._own else deepspeed.utils.safe_get_full_fp32_param(weight)
        return full.detach()

    @torch.no_grad()
    def fill(self, values: dict[str, torch.Tensor]) -> None:
        """Set them to the full `values`, which every process has."""
        for name, weight in self._weights.items():
            value = values[name]
            if self._own:
                self._own[weight].copy_(value)
            elif self._stage == 3:
                # The last process's shard is padded, which DeepSpeed's safe_set_full_fp32_param does not handle.
                size = deepspeed.utils.safe_get_local_fp32_param(weight).numel()
                padded = torch.nn.functional.pad(value.flatten(), (0, size * distributed.world_size() - value.numel()))
                deepspeed.utils.safe_set_local_fp32_param(weight, distributed.shard(padded))
            else:
                deepspeed.utils.safe_set_full_fp32_param(weight, value)

    @torch.no_grad()
    def copy_to_network(self) -> None:
        """Set the network's weights to these, in the network's precision. Collective."""
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

    def scaler_state(self) -> dict[str, torch.Tensor]:
        """What changes in the loss scaler of fp16; empty without one."""
        scaler = self._scaler()
        values = {key: getattr(scaler, key, None) for key in SCALER}
        return {
            f"scaler.{key}": torch.tensor(value, dtype=torch.float64)
            for key, value in values.items()
            if isinstance(value, int | float)
        }

    def load_scaler_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `scaler_state` returned."""
        scaler = self._scaler()
        for key in SCALER:
            if (value := state.get(f"scaler.{key}")) is not None:
                setattr(scaler, key, type(getattr(scaler, key))(value.item()))

    def _scaler(self) -> Any:
        return getattr(self._optimizer, "loss_scale_config", None) or getattr(self._optimizer, "loss_scaler", None)
