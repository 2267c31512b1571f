"""Learning rate, batch and gradient checkpointing for a network's size and a device's memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import sqrt
from typing import Any

from distillkit.config.settings import Components
from distillkit.errors import DistillkitError
from distillkit.interfaces import Inventory
from distillkit.registry import Scale

ROOM = 0.9
"""The share of a device's memory that is counted on."""
SMALL = 4
"""Below so many samples at a time, computing activations twice is the lesser evil."""


class TooLargeError(DistillkitError):
    """The networks alone do not fit in the device's memory."""


def fit(
    components: Components,
    inventory: Inventory,
    scale: Scale | None,
    memory: float,
    fixed: Collection[str],
    guidance: float | None,
) -> dict[str, Any]:
    """Tables that follow from the model's size and the device.

    Args:
        components: what was chosen so far.
        inventory: the model's.
        scale: what the learning rate in `components` was found with; None: it is taken as it is.
        memory: bytes of the device's memory.
        fixed: keys that somebody has set by hand.
        guidance: the scale s; None: the pipeline's own.

    Raises:
        TooLargeError: they do not fit.
    """
    guidance = inventory.guidance if guidance is None else guidance
    state = estimate(components, inventory).total
    if state > memory:
        raise TooLargeError(
            f"the networks alone take {state / 1e9:.1f} GB, and {components.engine.device} has {memory / 1e9:.1f} GB; "
            "choose a method that holds fewer of them (--method; docs/methods.md), another device "
            "(--set engine.device=…), or a smaller model"
        )
    tables: dict[str, Any] = {"optimizer": _rates(components, inventory, scale)}
    batch, room = components.source.options.batch, ROOM * memory - state
    part = _part(batch, room / activations(inventory, guidance, False))
    recompute = part < min(SMALL, batch)
    if recompute:
        part = _part(batch, room / activations(inventory, guidance, True))
    if "source.batch" not in fixed:
        tables["source"] = {"batch": part}
        tables["optimizer"]["accumulate"] = batch // part
    tables["evaluation"] = {"batch": part}
    tables["engine"] = {"gradient_checkpointing": recompute}
    if guidance != 1:
        tables["source"] = tables.get("source", {}) | {"guidance": guidance}
        tables["evaluation"]["guidance"] = guidance
    return tables


def _rates(components: Components, inventory: Inventory, scale: Scale | None) -> dict[str, Any]:
    """Learning rates ∝ 1/√parameters, relative to the network that the preset's rate was chosen for."""
    if scale is None:
        return {}
    factor = sqrt(scale.parameters / (inventory.adapter or inventory.parameters))
    table = components.optimizer
    rates = {"learning_rate": table.learning_rate, "final_learning_rate": table.final_learning_rate}
    return {key: float(f"{rate * factor:.2g}") for key, rate in rates.items() if rate is not None}


def _part(batch: int, fits: float) -> int:
    """The largest divisor of a batch that fits, or 1: so many samples at a time."""
    return max([1, *(part for part in range(1, batch + 1) if batch % part == 0 and part <= fits)])


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


def estimate(components: Components, inventory: Inventory) -> Memory:
    """What the parts of a config hold on to from the first update to the last.

    Activations come on top: `activations`.
    """
    # Beside an adapter, the network's own weights are frozen, and teachers share them.
    trained = inventory.parameters if components.student is None else inventory.adapter
    frozen = inventory.frozen + (0 if components.student is None else inventory.parameters)
    holders = (components.teacher, components.target)
    copies = sum(holder.copies for holder in holders if holder is not None)
    return Memory(
        trained=components.engine.state_bytes(trained, average=components.ema is not None),
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
