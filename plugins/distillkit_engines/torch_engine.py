"""Plain torch: one device for each process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.interfaces import EmaTable, Engine, OptimizerTable, Update
from distillkit.noise import Predictor
from distillkit_engines.average import swap
from distillkit_engines.device import checkpoint_gradients, claim, has_bf16
from distillkit_engines.finite import marked
from distillkit_engines.replica import Replica


class TorchEngine(Engine):
    """CPUs or GPUs; float32 weights, optionally bfloat16 autocast; fused AdamW; EMA; DDP or FSDP2."""

    name = "torch"

    class Options(Engine.Options):
        """
        Attributes:
            device: "auto" (a GPU if there is one), "cpu", or a CUDA device as torch names it ("cuda", "cuda:1"). Of
                several processes on a machine each takes the GPU of its own number.
            precision: "fp32"; "bf16" for bfloat16 autocast around the networks; "auto": bf16 where the device computes
                in it (a GPU that has it, a CPU with AVX512-BF16), fp32 elsewhere.
            gradient_checkpointing: keep few of the student's activations and compute the others again in the backward
                pass: less memory for one more forward pass. Of networks that have it, as diffusers' do.
            sharding: what several processes do: "none": each has the whole network (DDP); "fsdp": each keeps a part of
                weights, gradients, moments and average (FSDP2).
            timeout_minutes: how long processes wait for each other before they give up.
        """

        device: str = "auto"
        precision: Literal["fp32", "bf16", "auto"] = "fp32"
        gradient_checkpointing: bool = False
        sharding: Literal["none", "fsdp"] = "none"
        timeout_minutes: float = Field(30, gt=0)

    options: Options

    @property
    def _sharded(self) -> bool:
        return self.options.sharding == "fsdp" and distributed.world_size() > 1

    @property
    def layout(self) -> str:
        """FSDP2's shards, or DDP's replicas."""
        return f"FSDP2 in {distributed.world_size()} processes" if self._sharded else "replicated"

    def state_bytes(self, parameters: int, average: bool) -> int:
        """float32 weights, gradients, two moments and the average; with FSDP2, a process's part of them."""
        return super().state_bytes(parameters, average) // (distributed.world_size() if self._sharded else 1)

    def setup(self) -> None:
        """Claim the device."""

        self.device = claim(self.options.device, self.options.timeout_minutes)
        precision = self.options.precision
        self._bf16 = has_bf16(self.device) if precision == "auto" else precision == "bf16"

    def prepare(
        self, module: torch.nn.Module, network: torch.nn.Module, optimizer: OptimizerTable, ema: EmaTable | None
    ) -> None:
        """Move the module to the device, spread it, and make the optimiser."""

        from distillkit_engines.fsdp import local, shard

        if self.options.gradient_checkpointing:
            checkpoint_gradients(network)
        self._module, self._network = module.to(self.device), network
        self._optimizer_table, self._ema_table = optimizer, ema
        if self._sharded:
            self._replica = Replica(module, network)
            shard(network, self.device)
        elif distributed.world_size() > 1:
            self._module = torch.nn.parallel.DistributedDataParallel(
                module,
                device_ids=[self.device] if self.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._names = [*trained]
        self._weights: list[torch.Tensor] = [*trained.values()]
        self._local = [local(weight) for weight in self._weights]
        self._optimizer = torch.optim.AdamW(
            self._weights,
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._average = [weight.clone() for weight in self._local] if ema else None
        # Updates made; on the device, as what is not finite is left out there.
        self._done = torch.zeros((), dtype=torch.float64, device=self.device)
        self._accumulated = 0

    def forward(self, *inputs: Any) -> Any:
        """Call the module under autocast."""
        with self.autocast(), self._synchronised():
            return self._module(*inputs)

    def _synchronised(self) -> AbstractContextManager[Any]:
        """Gradients travel with the last of the accumulated batches only."""
        from distillkit_engines.fsdp import synchronise

        last = self._accumulated + 1 == self._optimizer_table.accumulate
        if self._sharded:
            synchronise(self._network, last)
        elif distributed.world_size() > 1 and not last:
            unsynchronised: AbstractContextManager[Any] = self._module.no_sync()  # type: ignore[operator]
            return unsynchronised
        return nullcontext()

    def place_copy(self, copy: Predictor) -> None:
        """Move it to the device."""
        copy.to(self.device)

    def update(self, loss: torch.Tensor, learning_rate: float) -> Update | None:
        """Backward, and with the last of the accumulated batches one step of AdamW."""

        from distillkit_engines.fsdp import whole

        table = self._optimizer_table
        with self._synchronised():
            torch.autograd.backward(marked(loss) / table.accumulate)
        self._accumulated += 1
        if self._accumulated < table.accumulate:
            return None
        self._accumulated = 0
        norm = whole(torch.nn.utils.clip_grad_norm_(self._weights, table.clip or float("inf")))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        made = norm.isfinite().float()
        # What gradient scalers tell fused AdamW: with 1 it leaves weights, moments and its step as they are.
        self._optimizer.found_inf = 1 - made  # type: ignore[attr-defined]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None and self._ema_table is not None:
            with torch.no_grad():
                share = (1 - self._ema_table.decay_after(self._done)).to(made) * made
                torch._foreach_lerp_(self._average, self._local, [share] * len(self._local))
        self._done += made
        return Update(norm, made)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network carries the EMA weights."""
        from distillkit_engines.fsdp import fill

        swap(self._local, self._average)
        try:
            if not self._sharded:
                yield
                return
            with self._twin() as twin:
                yield
            theirs = dict(twin.named_parameters())
            for name, weight in zip(self._names, self._weights, strict=True):
                fill(weight, theirs[name].detach())
        finally:
            swap(self._local, self._average)

    def _twin(self) -> AbstractContextManager[torch.nn.Module]:
        from distillkit_engines.fsdp import whole

        weights = {name: whole(weight) for name, weight in zip(self._names, self._weights, strict=True)}
        return self._replica.filled(weights, self.device)

    def unsharded(self) -> AbstractContextManager[Any]:
        """Inside, an unsharded network takes the place of a sharded one."""
        return self._twin() if self._sharded else nullcontext()

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 where the config and the device say so."""

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The trained weights, their average, and AdamW's moments, by name; of FSDP2's, this process's part."""
        from distillkit_engines.fsdp import local

        state: dict[str, torch.Tensor] = {"updates": self._done}
        for i, (name, weight) in enumerate(zip(self._names, self._weights, strict=True)):
            state[f"network.{name}"] = self._local[i]
            if self._average is not None:
                state[f"average.{name}"] = self._average[i]
            for key, value in self._optimizer.state[weight].items():
                state[f"optimizer.{key}.{name}"] = local(value)
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put all of it back."""

        from distillkit_engines.fsdp import local

        self._done.copy_(state["updates"])
        for i, (name, weight) in enumerate(zip(self._names, self._weights, strict=True)):
            self._local[i].copy_(state[f"network.{name}"])
            if self._average is not None:
                self._average[i].copy_(state[f"average.{name}"])
            self._optimizer.state[weight] = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (kept := state.get(f"optimizer.{key}.{name}")) is None:
                    continue
                like = torch.zeros((), device=self.device) if key == "step" else torch.zeros_like(weight).detach()
                local(like).copy_(kept)
                self._optimizer.state[weight][key] = like
