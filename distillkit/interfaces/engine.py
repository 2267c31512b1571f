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
    """One parameter update, as the journal tells it.

    Attributes:
        grad_norm: the gradient's norm before clipping, a scalar tensor (not read until a log point).
        made: whether the update was made, a scalar tensor of 1 or 0: one whose loss or gradient is not finite is left
            out, and weights, average and optimiser are as they were. None: it was.
    """

    grad_norm: torch.Tensor
    made: torch.Tensor | None = None


class Engine(Component):
    """Owns where and how the network is trained."""

    device: torch.device

    @property
    def layout(self) -> str:
        """How the state that a checkpoint has is cut, in words: one that was cut otherwise cannot be taken."""
        return "whole"

    @property
    def replicated(self) -> bool:
        """Whether every process's `state_dict` is the same; if not, each process's part goes into a checkpoint."""
        return True

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
    def forward(self, step: Any) -> Any:
        """Call the module in the configured precision."""

    @abstractmethod
    def place_frozen(self, copy: Predictor) -> None:
        """Put a frozen network, which is never part of the trained one, where it belongs."""

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

    def whole(self) -> AbstractContextManager[Any]:
        """Inside, the trained network's own weights can be read, where each process holds but a part of them.

        All processes enter it together.
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
