"""What both engines do alike: device, AdamW, skipped updates, the average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from distillkit import distributed
from distillkit.errors import DistillkitError
from distillkit.interfaces import EmaTable, OptimizerTable
from distillkit_engines.sharding import local_shard

COMMAND_OPTIONS = {"device": "device", "precision": "precision", "recompute": "gradient_checkpointing"}
"""The options of both that commands set."""


def claim_device(wanted: str, minutes: float) -> torch.device:
    """The device that `engine.device` means to this process. Joins the process group (`distributed.init`).

    Args:
        wanted: "auto", "cpu", "cuda" or "cuda:N". Of several processes each takes the GPU of its own number.
        minutes: timeout of the process group.

    Raises:
        DistillkitError: there is no such device.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise DistillkitError(f"engine.device: '{wanted}' is no device; expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise DistillkitError(f"engine.device: expected auto, cpu, cuda or cuda:N (got '{wanted}')")
    if device.type == "cuda":
        device = _own_gpu(device, wanted)
    distributed.init(device, 60 * minutes)
    return device


def _own_gpu(device: torch.device, wanted: str) -> torch.device:
    count, here = torch.cuda.device_count(), distributed.local_world_size()
    if here > 1 and device.index is not None:
        raise DistillkitError(
            f"engine.device: '{wanted}' is one GPU, and {here} processes run on this machine; use \"cuda\": each takes "
            "the GPU of its own number"
        )
    if here > count and here > 1:
        raise DistillkitError(
            f"engine.device: {here} processes run on this machine, and torch sees {count} CUDA "
            f"device{'s' * (count != 1)}; start as many processes as there are GPUs"
        )
    if here == 1 and (device.index or 0) >= count:
        raise DistillkitError(
            f"engine.device: '{wanted}' is not there: torch sees {count} CUDA device{'s' * (count != 1)}; "
            'use "auto" or "cpu"'
        )
    return torch.device("cuda", distributed.local_rank()) if here > 1 else device


def has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 (a GPU that has it, a CPU with AVX512-BF16)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public question for it in all the versions that distillkit takes.
    return bool(torch.cpu._is_avx512_bf16_supported())


def enable_gradient_checkpointing(network: torch.nn.Module) -> None:
    """Turn on a network's gradient checkpointing, for which diffusers' networks have a method.

    Raises:
        DistillkitError: the network has none.
    """
    try:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    except (AttributeError, ValueError):
        raise DistillkitError(
            f"engine.gradient_checkpointing: {type(network).__name__} has no gradient checkpointing; set it to false"
        ) from None


def make_adamw(weights: Iterable[torch.Tensor], table: OptimizerTable) -> torch.optim.AdamW:
    """Fused AdamW as `[optimizer]` has it. Where its attribute `found_inf` is 1, a step changes nothing."""
    return torch.optim.AdamW(
        weights,
        lr=table.learning_rate,
        betas=table.betas,
        eps=table.eps,
        weight_decay=table.weight_decay,
        fused=True,
    )


def nan_unless_finite(loss: torch.Tensor) -> torch.Tensor:
    """The loss; if it is not finite, then neither is its gradient (that of an infinite loss may be)."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def ema_decay(table: EmaTable, updates: torch.Tensor) -> torch.Tensor:
    """The decay of the update that follows `updates` others, a scalar in float64 on the device."""
    if table.warmup:
        return ((1 + updates) / (10 + updates)).clamp(max=table.decay)
    return updates.new_full((), table.decay)


class TrainedWeights:
    """The float32 weights that AdamW updates in this process, and their exponential moving average.

    Args:
        weights: by name. Of DTensors, this process's shards are averaged and saved.
        adamw: the optimiser that has them.
        ema: the config's `[ema]`; None for no average.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], adamw: torch.optim.AdamW, ema: EmaTable | None) -> None:
        self.weights = dict(weights)
        self._adamw, self._ema = adamw, ema
        self._shards = [local_shard(weight) for weight in self.weights.values()]
        self._average = [shard.clone() for shard in self._shards] if ema else []
        # On the device: the host does not know which updates were skipped.
        self._updates = torch.zeros((), dtype=torch.float64, device=self._shards[0].device)

    def count_update(self, made: torch.Tensor) -> None:
        """Move the average after an update, unless it was skipped (`Update.made`)."""
        made = made.to(self._updates.device)
        if self._ema is not None:
            with torch.no_grad():
                share = (1 - ema_decay(self._ema, self._updates)).to(made) * made
                torch._foreach_lerp_(self._average, self._shards, [share] * len(self._shards))
        self._updates += made

    def restart_average(self) -> None:
        """Set the average to the weights as they are now. Without an average, do nothing."""
        for shard, mean in zip(self._shards, self._average, strict=False):
            mean.copy_(shard)

    def swap_average(self) -> None:
        """Exchange the values of the weights and of their average. Without an average, do nothing."""
        for shard, mean in zip(self._shards, self._average, strict=False):
            kept = shard.clone()
            shard.copy_(mean)
            mean.copy_(kept)

    def restart_moments(self) -> None:
        """Set AdamW's moments and its steps to zero, in place, as DeepSpeed has references to them."""
        for state in self._adamw.state.values():
            for value in state.values():
                local_shard(value).zero_()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Number of updates, weights, average and AdamW's moments, by name."""
        state = {"updates": self._updates}
        for i, (name, weight) in enumerate(self.weights.items()):
            state[f"network.{name}"] = self._shards[i]
            if self._average:
                state[f"average.{name}"] = self._average[i]
            for key, value in self._adamw.state.get(weight, {}).items():
                state[f"optimizer.{key}.{name}"] = local_shard(value)
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._updates.copy_(state["updates"])
        for i, (name, weight) in enumerate(self.weights.items()):
            self._shards[i].copy_(state[f"network.{name}"])
            if self._average:
                self._average[i].copy_(state[f"average.{name}"])
            self._adamw.state[weight] = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if (kept := state.get(f"optimizer.{key}.{name}")) is None:  # AdamW has made no step
                    continue
                value = torch.zeros((), device=weight.device) if key == "step" else torch.zeros_like(weight).detach()
                local_shard(value).copy_(kept)
                self._adamw.state[weight][key] = value
