"""What a run takes of a device's memory, by arithmetic from the model's own files. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from distillkit.config.settings import Settings
from distillkit.interfaces import Inventory

WEIGHT = 4
"""Bytes of a weight: networks are float32, also where they compute in bfloat16."""
ACTIVATIONS = 50
"""Bytes of activations of a sample, per √parameters and place of the sample's height and width, in float32. Rough:
eight of diffusers' networks, from 2 M to 2.6 G parameters, have 3 to 130, most of them 13 to 65."""
CHECKPOINTED = 0.1
"""The share of them that is left with gradient checkpointing; from 0.01 to 0.7 there."""
LARGE = 128 * 128
"""Height times width that is assumed where the files do not say."""


@dataclass(frozen=True)
class Memory:
    """Bytes, without activations.

    Attributes:
        trained: the weights that are trained, their gradients, the optimiser's state and the average of the weights.
        copies: of those weights, which teacher and target hold.
        frozen: the model's other parts; beside an adapter, the network itself.
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

    Activations come on top: `activations`.
    """
    # Beside an adapter, the network's own weights are frozen, and teachers share them.
    trained = inventory.parameters if settings.student is None else inventory.adapter
    frozen = inventory.frozen + (0 if settings.student is None else inventory.parameters)
    holders = (settings.teacher, settings.target)
    copies = sum(holder.copies for holder in holders if holder is not None)
    return Memory(
        trained=settings.engine.state_bytes(trained, average=settings.ema is not None),
        copies=copies * trained * WEIGHT,
        frozen=frozen * WEIGHT,
    )


def activations(inventory: Inventory, guidance: float, recompute: bool) -> float:
    """About what a sample's activations take in bytes; only measuring tells (`distillkit plan --measure`).

    Args:
        inventory: the model's.
        guidance: the scale s; any but 1 evaluates the network on twice as many.
        recompute: with gradient checkpointing.
    """
    places = (inventory.size or LARGE) * (1 if guidance == 1 else 2)
    return ACTIVATIONS * sqrt(inventory.parameters) * places * (CHECKPOINTED if recompute else 1)
