"""One process, one device, plain torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

from distillkit.errors import DistillkitError
from distillkit.interfaces import EmaTable, Engine, OptimizerTable, Update

if TYPE_CHECKING:
    from torch import Tensor, nn


class TorchEngine(Engine):
    """A CPU or one GPU; float32 weights, optionally bfloat16 autocast; fused AdamW; EMA."""

    name = "torch"

    class Options(Engine.Options):
        """
        Attributes:
            device: "auto" (a GPU if there is one), "cpu", or a CUDA device as torch names it ("cuda", "cuda:1").
            precision: "fp32"; "bf16" for bfloat16 autocast around the networks; "auto": bf16 where the device computes
                in it (a GPU that has it, a CPU with AVX512-BF16), fp32 elsewhere.
            gradient_checkpointing: keep few of the student's activations and compute the others again in the backward
                pass: less memory for one more forward pass. Of networks that have it, as diffusers' do.
        """

        device: str = "auto"
        precision: Literal["fp32", "bf16", "auto"] = "fp32"
        gradient_checkpointing: bool = False

    options: Options

    def setup(self) -> None:
        """Claim the device."""
        import torch

        wanted = self.options.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(wanted)
        except RuntimeError:
            raise DistillkitError(
                f"engine.device: '{wanted}' is no device; expected auto, cpu, cuda or cuda:N"
            ) from None
        if self.device.type not in ("cpu", "cuda"):
            raise DistillkitError(f"engine.device: expected auto, cpu, cuda or cuda:N (got '{wanted}')")
        if self.device.type == "cuda" and (self.device.index or 0) >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise DistillkitError(
                f"engine.device: '{wanted}' is not there: torch sees {count} CUDA device{'s' * (count != 1)}; "
                'use "auto" or "cpu"'
            )

    @property
    def _bf16(self) -> bool:
        import torch

        if self.options.precision == "auto":
            if self.device.type == "cuda":
                return bool(torch.cuda.is_bf16_supported(including_emulation=False))
            # torch has no public question for it in all the versions that distillkit takes.
            return bool(torch.cpu._is_avx512_bf16_supported())
        return self.options.precision == "bf16"

    def prepare(self, module: nn.Module, network: nn.Module, optimizer: OptimizerTable, ema: EmaTable | None) -> None:
        """Move the module to the device and make the optimiser."""
        import torch

        if self.options.gradient_checkpointing:
            _checkpoint_gradients(network)
        self._module = module.to(self.device)
        self._optimizer_table, self._ema_table = optimizer, ema
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        self._names = [*trained]
        self._weights: list[Tensor] = [*trained.values()]
        self._optimizer = torch.optim.AdamW(
            self._weights,
            lr=optimizer.learning_rate,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self._average = [weight.detach().clone() for weight in self._weights] if ema else None
        # Updates made; on the device, as what is not finite is left out there.
        self._done = torch.zeros((), dtype=torch.float64, device=self.device)
        self._accumulated = 0

    def forward(self, step: Any) -> Any:
        """Call the module under autocast."""
        with self.autocast():
            return self._module(step)

    def place_frozen(self, module: nn.Module) -> None:
        """Frozen modules live on the same device."""
        module.to(self.device)

    def update(self, loss: Tensor, learning_rate: float) -> Update | None:
        """Backward, and with the last of the accumulated batches one step of AdamW."""
        import torch

        table = self._optimizer_table
        torch.autograd.backward(_marked(loss) / table.accumulate)
        self._accumulated += 1
        if self._accumulated < table.accumulate:
            return None
        self._accumulated = 0
        norm = torch.nn.utils.clip_grad_norm_(self._weights, table.clip or float("inf"))
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
                torch._foreach_lerp_(self._average, self._weights, [share] * len(self._weights))
        self._done += made
        return Update(norm, made)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the network carries the EMA weights."""
        if self._average is None:
            yield
            return
        self._swap(self._average)
        try:
            yield
        finally:
            self._swap(self._average)

    def _swap(self, average: list[Tensor]) -> None:
        for weight, mean in zip(self._weights, average, strict=True):
            weight.data, mean.data = mean.data, weight.data

    def autocast(self) -> AbstractContextManager[Any]:
        """bfloat16 where the config and the device say so."""
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)

    def state_dict(self) -> Mapping[str, Tensor]:
        """The trained weights, their average, and AdamW's moments, by name."""
        state: dict[str, Tensor] = {"updates": self._done}
        for i, (name, weight) in enumerate(zip(self._names, self._weights, strict=True)):
            state[f"network.{name}"] = weight.detach()
            if self._average is not None:
                state[f"average.{name}"] = self._average[i]
            for key, value in self._optimizer.state[weight].items():
                state[f"optimizer.{key}.{name}"] = value
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put all of it back."""
        import torch

        with torch.no_grad():
            self._done.copy_(state["updates"])
            for i, (name, weight) in enumerate(zip(self._names, self._weights, strict=True)):
                weight.copy_(state[f"network.{name}"])
                if self._average is not None:
                    self._average[i].copy_(state[f"average.{name}"])
                keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer.{key}.{name}" in state]
                self._optimizer.state[weight] = {
                    key: state[f"optimizer.{key}.{name}"].clone().to(self.device) for key in keys
                }


def _marked(loss: Tensor) -> Tensor:
    """The loss; where it is not finite, neither is its gradient then, which tells (that of an infinite one may be)."""
    import torch

    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def _checkpoint_gradients(network: nn.Module) -> None:
    """Ask a network to; diffusers' have a method for it.

    Raises:
        DistillkitError: it cannot.
    """
    try:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    except (AttributeError, ValueError):
        raise DistillkitError(
            f"engine.gradient_checkpointing: {type(network).__name__} has no gradient checkpointing; set it to false"
        ) from None
