"""Device, precision, backward pass, optimiser, EMA."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from distillkit.component import Component
from distillkit.interfaces.optimization import EmaTable, OptimizerTable
from distillkit.noise import Predictor


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


class Engine(Component):
    """Owns where and how the network is trained."""

    device: torch.device

    @property
    def layout(self) -> str:
        """How `state_dict` is sharded over the processes, in a few words. Optional: "replicated" by default.

        If it is "replicated", every process has the same state and the first one's goes into a checkpoint; otherwise
        each process's shard does. A checkpoint is only restored with the layout that it was written with.
        """
        return "replicated"

    @abstractmethod
    def setup(self) -> None:
        """Claim the device, and meet the other processes (`distributed.init`). Called first; again, it changes nothing.

        Raises:
            DistillkitError: the device is not there.
        """

    @abstractmethod
    def prepare(
        self, module: torch.nn.Module, network: torch.nn.Module, optimizer: OptimizerTable, ema: EmaTable | None
    ) -> None:
        """Take the module that is called once per update.

        Args:
            module: `DistillStep`: (step) -> (loss, target batch or None, rms of x̂).
            network: the network inside it that is trained: those of its weights that need a gradient, all of them
                unless the student has an adapter.
            optimizer: the config's `[optimizer]` table.
            ema: the config's `[ema]` table; None for no EMA.
        """

    def state_bytes(self, parameters: int, average: bool) -> int:
        """What training a network takes of the device's memory, in bytes, but for activations.

        Of this process, where several share it. By default AdamW's in float32: weights, gradients and two moments, and
        the average of the weights.
        """
        return parameters * (20 if average else 16)

    @abstractmethod
    def forward(self, *inputs: Any) -> Any:
        """Call the module in the configured precision."""

    @abstractmethod
    def place_copy(self, copy: Predictor) -> None:
        """Move a frozen copy of the network, which is not trained, to the device and the precision it is evaluated in.

        `Predictor.frozen_copy` calls it.
        """

    @abstractmethod
    def update(self, loss: torch.Tensor, learning_rate: float) -> Update | None:
        """Backward; with the last of the accumulated batches also clip, step, zero the gradient and average.

        What is not finite must not reach a weight, and to see to that must not make the host wait for the device.

        Args:
            loss: a scalar with a graph.
            learning_rate: the update's, the same for all of its batches.

        Returns:
            the update; None while batches accumulate.
        """

    @abstractmethod
    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the trained network carries the EMA weights (its own, where there is no EMA of them), whole.

        Weights that are loaded into it there take their place. All processes enter it together.
        """

    def unsharded(self) -> AbstractContextManager[Any]:
        """Inside, all of the trained network's weights can be read in every process. Optional.

        An engine that shards them gathers them here. All processes enter it together.
        """
        return nullcontext()

    @abstractmethod
    def autocast(self) -> AbstractContextManager[Any]:
        """The precision in which the engine evaluates networks."""

    @abstractmethod
    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Trained weights, EMA and optimiser state, for a checkpoint."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from `state_dict`."""
