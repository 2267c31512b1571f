"""Chooses learning rate, batch and gradient checkpointing for a network and a device's memory. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import sqrt
from typing import Any

from distillkit.config.input_checks import unguidable
from distillkit.config.settings import Components
from distillkit.errors import DistillkitError
from distillkit.files import readable_bytes
from distillkit.interfaces import Inventory, OptimizerTable
from distillkit.registry import Scale, whole

ROOM = 0.9
"""The share of a device's memory that a run may use."""
SMALL = 4
"""If fewer samples than this fit at a time, gradient checkpointing is used."""


class TooLargeError(DistillkitError):
    """The networks alone do not fit in the device's memory.

    Args:
        fact: what takes how much.
        advice: what to do.
        before_training: whether it is what is needed before the first update only.
    """

    def __init__(self, fact: str, advice: str, before_training: bool = False) -> None:
        self.fact, self.advice, self.before_training = fact, advice, before_training
        super().__init__(f"{fact}; {advice}")


def fit(
    components: Components,
    inventory: Inventory,
    scale: Scale | None,
    memory: float,
    fixed: Collection[str],
    guidance: float | None,
) -> dict[str, Any]:
    """The tables that follow from the model's size and the device.

    Args:
        components: the components chosen so far.
        inventory: the sizes of the model.
        scale: the network size that the learning rate in `components` was chosen for; None: keep the rate.
        memory: the device's memory in bytes.
        fixed: the keys that the user has set.
        guidance: the guidance scale s; None: the pipeline's default.

    Raises:
        TooLargeError: the networks do not fit in the memory.
    """
    guidance = inventory.guidance if guidance is None else guidance
    state = estimate(components, inventory).total
    if state > memory:
        raise TooLargeError(
            f"the networks alone take {readable_bytes(state)}, and {_has(components, memory)}",
            "choose a method that holds fewer of them (--method; docs/methods.md), another device "
            "(--set engine.device=…), or a smaller model",
        )
    if (needed := encoding(components, inventory)) > memory:
        raise TooLargeError(
            f"to encode the prompts takes {readable_bytes(needed)}, before the first update, and "
            f"{_has(components, memory)}",
            "choose another device (--set engine.device=…), or text encoders of half precision",
            before_training=True,
        )
    tables: dict[str, Any] = {"optimizer": _rates(components.optimizer, inventory, scale)}
    if components.critic is not None:
        tables["critic"] = {"optimizer": _rates(components.critic.options.optimizer, inventory, scale)}
    batch, room = components.source.options.batch, ROOM * memory - state
    part = _part(batch, room / activations(inventory, guidance, False))
    options = components.engine.command_options
    recompute = "recompute" in options and part < min(SMALL, batch)
    if recompute:
        part = _part(batch, room / activations(inventory, guidance, True))
    if "source.batch" not in fixed:
        tables["source"] = {"batch": part}
        tables["optimizer"]["accumulate"] = batch // part
    tables["evaluation"] = {"batch": part}
    wanted = {"precision": "auto", "recompute": recompute}
    tables["engine"] = {options[what]: value for what, value in wanted.items() if what in options}
    # Of a range that the user gives, the student is sampled at the one scale.
    ranged = isinstance(components.source.options.guidance, tuple)
    if guidance != 1 or ranged:
        tables["source"] = tables.get("source", {}) | {"guidance": guidance}
        if unguidable(components) is None and not inventory.guidance_input:
            tables["student"] = {"guidance": "baked"}
            # Few steps bear less of it.
            tables["evaluation"]["teacher_guidance"] = list(dict.fromkeys([guidance, (1 + guidance) / 2, 1.0]))
            if ranged:
                tables["evaluation"]["guidance"] = guidance
        else:
            tables["evaluation"]["guidance"] = guidance
    return tables


def _has(components: Components, memory: float) -> str:
    return f"{components.engine.device} has {readable_bytes(memory)}"


def _rates(table: OptimizerTable, inventory: Inventory, scale: Scale | None) -> dict[str, Any]:
    """Learning rates ∝ 1/√parameters, relative to the network that the preset's rate was chosen for."""
    if scale is None:
        return {}
    factor = sqrt(scale.parameters / (inventory.adapter or inventory.parameters))
    rates = {"learning_rate": table.learning_rate, "final_learning_rate": table.final_learning_rate}
    return {key: float(f"{rate * factor:.2g}") for key, rate in rates.items() if rate is not None}


def _part(batch: int, fits: float) -> int:
    """The largest divisor of the batch that fits in the memory, at least 1."""
    return max([1, *(part for part in range(1, batch + 1) if batch % part == 0 and part <= fits)])


WEIGHT = 4
"""Bytes per weight: networks are kept in float32, even if they compute in bfloat16."""
ACTIVATIONS = 50
"""Bytes of activations per sample, per √parameters and per pixel (height times width) of the sample, in float32.

A rough value: eight networks of diffusers, from 2 M to 2.6 G parameters, have 3 to 130, most of them 13 to 65.
"""
CHECKPOINTED = 0.1
"""The share of the activations that is left with gradient checkpointing; 0.01 to 0.7 in those networks."""
LARGE = 128 * 128
"""Height times width that is assumed if the model's files do not give them."""


@dataclass(frozen=True)
class Memory:
    """Memory in bytes, without activations.

    Attributes:
        trained: the trained weights, their gradients, the optimiser's state and the average of the weights; the same
            for a critic, which has no average.
        copies: the copies of those weights that the teacher and the target hold.
        frozen: the model's other parts; with an adapter, also the network itself.
    """

    trained: int
    copies: int
    frozen: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.trained + self.copies + self.frozen


def estimate(components: Components, inventory: Inventory) -> Memory:
    """Estimate the memory that the components hold during the whole run, without `activations`."""
    # With an adapter, the network's own weights are frozen, and teachers share them.
    trained = inventory.parameters if components.adapter is None else inventory.adapter
    frozen = inventory.frozen + (0 if components.adapter is None else inventory.parameters)
    holders = (components.teacher, components.target)
    copies = sum(holder.copies for holder in holders if holder is not None)
    engine = components.engine
    state = whole(engine, "state_bytes()", engine.state_bytes(trained, average=components.ema is not None), "bytes", 0)
    if components.critic is not None:
        state += components.critic.copies * engine.state_bytes(trained, average=False)
    return Memory(
        trained=state,
        copies=copies * trained * WEIGHT,
        frozen=frozen * WEIGHT,
    )


def encoding(components: Components, inventory: Inventory) -> int:
    """Estimate the memory in bytes while prompts are encoded, before the first update; 0 if there are none.

    The network is still on the CPU then, and text encoders are on a GPU, if there is one.
    """
    if not inventory.encoders:
        return 0
    beside = 0 if components.engine.device.type == "cuda" else (inventory.parameters + inventory.frozen) * WEIGHT
    return inventory.encoders + beside


def activations(inventory: Inventory, guidance: float, recompute: bool) -> float:
    """Estimate roughly how many bytes the activations of one sample take; `distillkit plan --measure` measures them.

    Args:
        inventory: the sizes of the model.
        guidance: the guidance scale s; any but 1 evaluates the network on twice as many samples.
        recompute: whether gradient checkpointing is on.
    """
    pixels = (inventory.size or LARGE) * (1 if guidance == 1 else 2)
    return ACTIVATIONS * sqrt(inventory.parameters) * pixels * (CHECKPOINTED if recompute else 1)
