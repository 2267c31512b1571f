"""Learning rate, batch and gradient checkpointing for a network's size and a device's memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from math import sqrt
from typing import Any

from distillkit.config.memory import activations, estimate
from distillkit.config.settings import Settings
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
    settings: Settings,
    inventory: Inventory,
    scale: Scale | None,
    memory: float,
    fixed: Collection[str],
    guidance: float | None,
) -> dict[str, Any]:
    """Tables that follow from the model's size and the device.

    Args:
        settings: what was chosen so far.
        inventory: the model's.
        scale: what the learning rate in `settings` was found with; None: it is taken as it is.
        memory: bytes of the device's memory.
        fixed: keys that somebody has set by hand.
        guidance: the scale s; None: the pipeline's own.

    Raises:
        TooLargeError: they do not fit.
    """
    guidance = inventory.guidance if guidance is None else guidance
    state = estimate(settings, inventory).total
    if state > memory:
        raise TooLargeError(
            f"the networks alone take {state / 1e9:.1f} GB, and {settings.engine.device} has {memory / 1e9:.1f} GB; "
            "choose a method that holds fewer of them (--method; docs/methods.md), another device "
            "(--set engine.device=…), or a smaller model"
        )
    tables: dict[str, Any] = {"optimizer": _rates(settings, inventory, scale)}
    batch, room = settings.source.options.batch, ROOM * memory - state
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


def _rates(settings: Settings, inventory: Inventory, scale: Scale | None) -> dict[str, Any]:
    """Learning rates ∝ 1/√parameters: docs/methods.md, "The size of the network"."""
    if scale is None:
        return {}
    factor = sqrt(scale.parameters / (inventory.adapter or inventory.parameters))
    table = settings.optimizer
    rates = {"learning_rate": table.learning_rate, "final_learning_rate": table.final_learning_rate}
    return {key: float(f"{rate * factor:.2g}") for key, rate in rates.items() if rate is not None}


def _part(batch: int, fits: float) -> int:
    """The largest divisor of a batch that fits, or 1: so many samples at a time."""
    return max([1, *(part for part in range(1, batch + 1) if batch % part == 0 and part <= fits)])
