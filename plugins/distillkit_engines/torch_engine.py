"""The engine `torch`: DDP or FSDP2 over several processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar, Literal

import torch
import torch.distributed.fsdp
from pydantic import Field

from distillkit import distributed
from distillkit.interfaces import EmaTable, Engine, OptimizerTable, Update
from distillkit.noise import Predictor
from distillkit_engines.common import (
    COMMAND_OPTIONS,
    TrainedWeights,
    claim_device,
    enable_gradient_checkpointing,
    has_bf16,
    make_adamw,
    nan_unless_finite,
)
from distillkit_engines.sharding import Replica, fill, shard_network, unshard


class TorchEngine(Engine):
    """CPUs or GPUs; float32 weights, optionally bfloat16 autocast; fused AdamW; EMA; DDP or FSDP2."""

    name = "torch"
    default = True
    command_options: ClassVar[Mapping[str, str]] = COMMAND_OPTIONS

    class Options(Engine.Options):
        """
        Attributes:
            device: "auto" (a GPU if there is one), "cpu", or a CUDA device in torch's notation ("cuda", "cuda:1"). Of
                several processes on a machine, each takes the GPU of its local rank.
            precision: "fp32"; "bf16" for bfloat16 autocast; "auto": bf16 if the device supports it (most GPUs, and CPUs
                with AVX512-BF16), otherwise fp32.
            gradient_checkpointing: recompute the student's activations in the backward pass: less memory for one more
                forward pass. For networks that support it, as diffusers' do.
            sharding: with several processes: "none": each has the whole network (DDP); "fsdp": each has a shard of
                weights, gradients, moments and average (FSDP2).
            timeout_minutes: how long processes wait for each other before they fail.
        """

        device: str = "auto"
        precision: Literal["fp32", "bf16", "auto"] = "fp32"
        gradient_checkpointing: bool = False
        sharding: Literal["none", "fsdp"] = "none"
        timeout_minutes: float = Field(30, gt=0)

    options: Options

    # Before `prepare`, and in a single process.
    _sharded: torch.distributed.fsdp.FSDPModule | None = None
    _ddp: torch.nn.parallel.DistributedDataParallel | None = None

    @property
    def _fsdp(self) -> bool:
        return self.options.sharding == "fsdp" and distributed.world_size() > 1

    @property
    def layout(self) -> str:
        """FSDP2's shards, or DDP's replicas."""
        return f"FSDP2 in {distributed.world_size()} processes" if self._fsdp else "replicated"

    def state_bytes(self, parameters: int, average: bool) -> int:
        """float32 weights, gradients, two moments and the average; with FSDP2, a process's shard of them."""
        return super().state_bytes(parameters, average) // (distributed.world_size() if self._fsdp else 1)

    def setup(self) -> None:
        """Claim the device."""
        self.device = claim_device(self.options.device, self.options.timeout_minutes)
        precision = self.options.precision
        self._bf16 = has_bf16(self.device) if precision == "auto" else precision == "bf16"

    def prepare(
        self, module: torch.nn.Module, network: torch.nn.Module, optimizer: OptimizerTable, ema: EmaTable | None
    ) -> None:
        """Move the module to the device, wrap it for several processes, and make the optimiser."""
        if self.options.gradient_checkpointing:
            enable_gradient_checkpointing(network)
        self._module, self._optimizer_table = module.to(self.device), optimizer
        if self._fsdp:
            self._replica = Replica(module, network)
            self._sharded = shard_network(network, self.device)
        elif distributed.world_size() > 1:
            # Each process would say so of the weights of 1×1 convolutions. The values are the same.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
            self._module = self._ddp = torch.nn.parallel.DistributedDataParallel(
                module,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )
        weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._adamw = make_adamw(weights.values(), optimizer)
        self._trained = TrainedWeights(weights, self._adamw, ema)
        self._accumulated = 0

    def forward(self, *inputs: Any) -> Any:
        """Call the module under autocast."""
        with self.autocast(), self._gradient_sync():
            return self._module(*inputs)

    def _gradient_sync(self) -> AbstractContextManager[Any]:
        """Gradients are reduced over the processes with the last of the accumulated batches only."""
        last = self._accumulated + 1 == self._optimizer_table.accumulate
        if self._sharded is not None:
            self._sharded.set_requires_gradient_sync(last)
        elif self._ddp is not None and not last:
            return self._ddp.no_sync()
        return nullcontext()

    def place_copy(self, copy: Predictor) -> None:
        """Move it to the device."""
        copy.to(self.device)

    def update(self, loss: torch.Tensor, learning_rate: float) -> Update | None:
        """Backward, and with the last of the accumulated batches one step of AdamW."""
        table = self._optimizer_table
        with self._gradient_sync():
            torch.autograd.backward(nan_unless_finite(loss) / table.accumulate)
        self._accumulated += 1
        if self._accumulated < table.accumulate:
            return None
        self._accumulated = 0
        weights = self._trained.weights.values()
        norm = torch.nn.utils.clip_grad_norm_(weights, table.clip or float("inf"))
        if self._sharded is not None:
            norm = unshard(norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        made = norm.isfinite().float()
        # As gradient scalers do: where it is 1, fused AdamW leaves weights, moments and its step as they are.
        self._adamw.found_inf = 1 - made  # type: ignore[attr-defined]
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._trained.count_update(made)
        return Update(norm, made)

    def start_from(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set weights and average."""
        for name, weight in self._trained.weights.items():
            fill(weight, weights[name].to(self.device))
        self._trained.restart_average()

    def restart_moments(self) -> None:
        """AdamW's are zero again."""
        self._trained.restart_moments()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network has the EMA weights, unsharded."""
        self._trained.swap_average()
        try:
            with self.unsharded() as replica:
                yield
            if replica is not None:
                values = dict(replica.named_parameters())
                for name, weight in self._trained.weights.items():
                    fill(weight, values[name].detach())
        finally:
            self._trained.swap_average()

    def unsharded(self) -> AbstractContextManager[Any]:
        """Inside, an unsharded network replaces a sharded one."""
        if self._sharded is None:
            return nullcontext()
        return self._replica.filled(
            {name: unshard(weight) for name, weight in self._trained.weights.items()}, self.device
        )

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 where the config and the device say so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The trained weights, their average, and AdamW's moments, by name; with FSDP2, this process's shards."""
        return self._trained.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._trained.load_state_dict(state)
