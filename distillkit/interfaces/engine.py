"""Where and how the network is trained: device, precision, processes, optimiser, average of the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from distillkit.component import Component, StrictModel
from distillkit.noise import Predictor

Unit = Annotated[float, Field(ge=0, lt=1)]


class OptimizerTable(StrictModel):
    """`[optimizer]`: AdamW and its learning rate.

    Attributes:
        learning_rate: initial learning rate, after the warm-up.
        final_learning_rate: what the learning rate falls towards: it is reached one update after the last. Constant if
            left out.
        shape: of the decay between the two: half a "cosine", or "linear".
        decay: once over the "run", or anew in each "stage" (Salimans & Ho 2022: linear to 0 in each).
        warmup: updates over which the learning rate rises linearly from 0.
        betas: Adam's β₁ and β₂.
        eps: Adam's ε.
        moments: Adam's moments are kept over the "run", or begin anew in each "stage" (Salimans & Ho 2022: in each).
        weight_decay: decoupled weight decay.
        clip: maximum gradient norm; 0 for no clipping.
        accumulate: batches per parameter update.
    """

    learning_rate: float = Field(1e-5, gt=0)
    final_learning_rate: float | None = Field(None, ge=0)
    shape: Literal["cosine", "linear"] = "cosine"
    decay: Literal["run", "stage"] = "run"
    warmup: int = Field(0, ge=0)
    betas: tuple[Unit, Unit] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0)
    moments: Literal["run", "stage"] = "run"
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, ge=0)
    accumulate: int = Field(1, ge=1)


class EmaTable(StrictModel):
    """`[ema]`: an exponential moving average of the weights. If present, it is what is evaluated and exported.

    Attributes:
        decay: decay per update.
        warmup: limit the decay to (1 + n)/(10 + n) at update n, as LDM and diffusers do. A short run then never
            reaches it: 0.9995 takes 18 000 updates.
    """

    decay: float = Field(0.999, ge=0, lt=1)
    warmup: bool = False


@dataclass(frozen=True)
class Update:
    """One parameter update. Its tensors stay on the device until the journal is written.

    Attributes:
        grad_norm: the gradient's norm before clipping, a scalar.
        made: 1 if the update was made, 0 if it was skipped because the loss or the gradient is not finite, a scalar.
            Skipping leaves weights, average and optimiser as they were.
    """

    grad_norm: torch.Tensor
    made: torch.Tensor


class ShardedState(ABC):
    """The state that training keeps: weights, optimiser state and average. Several processes may each have a shard."""

    @abstractmethod
    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The state for a checkpoint: trained weights, optimiser state and average, or this process's shard of them."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned in this process."""

    @property
    def layout(self) -> str:
        """How `state_dict` is sharded over the processes, in a few words. Optional: "replicated" by default.

        If it is "replicated", every process has the same state and the first one's goes into a checkpoint; otherwise
        each process's shard does. A checkpoint is only restored with the layout that it was written with.
        """
        return "replicated"

    def state_bytes(self, parameters: int, average: bool) -> int:
        """Device memory that the state takes in this process, in bytes, with gradients and without activations.

        Optional: AdamW in float32 by default, that is weights, gradients, two moments and the average.

        Args:
            parameters: number of trained weights.
            average: whether the config has `[ema]`.
        """
        return parameters * (20 if average else 16)

    @classmethod
    def memory_saving(cls, device_type: str) -> Iterable[dict[str, Any]]:
        """Options with which training takes less of a device's memory than with another engine, the fastest first.

        `distillkit distill` tries them where a network doesn't fit otherwise. Optional; must not import torch.

        Args:
            device_type: "cpu" or "cuda".
        """
        return ()


class Engine(Component, ShardedState):
    """Trains one network: it calls the module, computes gradients, updates the weights and averages them.

    Attributes:
        device: this process's; set by `setup`.
    """

    device: torch.device

    @abstractmethod
    def setup(self) -> None:
        """Claim the device and join the process group (`distributed.init`). Called first; a second call does nothing.

        Raises:
            DistillkitError: the device does not exist.
        """

    @abstractmethod
    def prepare(
        self, module: torch.nn.Module, network: torch.nn.Module, optimizer: OptimizerTable, ema: EmaTable | None
    ) -> None:
        """Take the module to train, and make the optimiser and the average. Called once.

        Args:
            module: `DistillStep`: (jumps, number of the update) -> (loss, target batch or None, rms of x̂, losses of the
                samples, landing or None); or `CriticStep`: (landing, number) -> loss.
            network: the network in it. Its weights that require a gradient are trained: all of them, or an adapter's.
            optimizer: the config's `[optimizer]` table.
            ema: the config's `[ema]` table; None for no average.
        """

    @abstractmethod
    def forward(self, *inputs: Any) -> Any:
        """Call the module in the configured precision. Returns its outputs."""

    @abstractmethod
    def update(self, loss: torch.Tensor, learning_rate: float) -> Update | None:
        """Run the backward pass. With the last of the accumulated batches also clip, step, zero gradients and average.

        If the loss or the gradient is not finite, the update is skipped. That must not synchronise host and device.

        Args:
            loss: a scalar with a graph, from `forward`.
            learning_rate: of the update, the same for all of its batches.

        Returns:
            the update; None while batches accumulate.
        """

    def start_from(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Set the trained weights, and their average, before the first update. Collective.

        Optional: a config with `[student] start` is refused for an engine that does not override this.

        Args:
            weights: by name, all that are trained, unsharded, float32 on the CPU.
        """
        raise NotImplementedError

    def restart_moments(self) -> None:
        """Set the optimiser's moments, and its count of steps, to what they are before the first update.

        Optional: a config with `optimizer.moments = "stage"` is refused for an engine that does not override this.
        """
        raise NotImplementedError

    @abstractmethod
    def autocast(self) -> AbstractContextManager[Any]:
        """The precision in which networks are evaluated."""

    @abstractmethod
    def place_copy(self, copy: Predictor) -> None:
        """Move a frozen copy of the network, which is not trained, to the device and the precision it is evaluated in.

        `Predictor.frozen_copy` calls it.
        """

    @abstractmethod
    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the network has the averaged weights, unsharded; without `[ema]`, its own weights.

        Weights that are loaded into the network inside are kept in their place. Collective.
        """

    def unsharded(self) -> AbstractContextManager[Any]:
        """Inside, all of the network's own weights can be read in every process. Collective.

        Optional: does nothing by default. An engine that shards the weights gathers them here.
        """
        return nullcontext()
