"""What a run takes of a device's memory, by arithmetic from the model's own files. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from distillkit.config.settings import Settings
from distillkit.interfaces import Inventory

WEIGHT = 4
"""Bytes of a weight: networks are float32, also where they compute in bfloat16."""


@dataclass(frozen=True)
class Memory:
    """Bytes, without activations.

    Attributes:
        trained: the network's weights, their gradients, the optimiser's state and the average of the weights.
        copies: of the network, which teacher and target hold.
        frozen: the model's other parts.
    """

    trained: int
    copies: int
    frozen: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.trained + self.copies + self.frozen


def estimate(settings: Settings, inventory: Inventory) -> Memory:
    """What the parts of a config hold on to from the first update to the last.

    Activations come on top, and are measured rather than computed: `distillkit plan --measure`.
    """
    holders = (settings.teacher, settings.target)
    copies = sum(holder.copies for holder in holders if holder is not None)
    return Memory(
        trained=settings.engine.state_bytes(inventory.parameters, average=settings.ema is not None),
        copies=copies * inventory.parameters * WEIGHT,
        frozen=inventory.frozen * WEIGHT,
    )
