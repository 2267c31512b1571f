"""How an exported pipeline samples: what its scheduler's config can say, and the times that it has to be handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from distillkit.interfaces import Export
from distillkit.noise.grids import SCHEDULERS_OWN

TRAINED = "_distillkit"
"""A key of exported schedulers' configs, which diffusers keeps and does not read: the path's own parameters."""

Times = Mapping[int, Mapping[str, list[float]]]
"""Numbers of steps -> an argument of a pipeline's call, or of its scheduler's `set_timesteps`: its name, and times."""


class Sampling(NamedTuple):
    """How the exported pipeline samples, for the model card.

    Attributes:
        sampler: the name of the rule.
        fit: for which numbers of steps the scheduler has the trained times; continues a sentence after a comma.
        times: the times that the scheduler has to be handed; empty if its config says them.
    """

    sampler: str
    fit: str
    times: Times = MappingProxyType({})

    def by_steps(self) -> dict[str, Mapping[str, list[float]]] | None:
        """The times as a pipeline's config has them, where whole ones are no ints; None if there are none."""
        return {
            str(steps): {key: [float(time) for time in values] for key, values in given.items()}
            for steps, given in self.times.items()
        } or None


def has_own(spacing: str) -> bool:
    """Whether no config of a scheduler with betas says a grid with this spacing, so that its times must be handed."""
    return spacing not in SCHEDULERS_OWN


def handed(export: Export, sampler: str, argument: str, values: Callable[[torch.Tensor], torch.Tensor]) -> Sampling:
    """For an export whose scheduler has to be handed its times: those of all numbers of steps that it was scored at.

    Args:
        export: the export.
        sampler: the name of the rule.
        argument: "timesteps" or "sigmas".
        values: a grid's times without the clean one, [S] -> what diffusers takes for them, [S].
    """
    counts = sorted({export.steps, *export.served, *export.several})
    times = {steps: {argument: values(export.path.grid(steps)[:-1]).tolist()} for steps in counts}
    return Sampling(sampler, f"exact at\n  {', '.join(map(str, counts))} steps with the times below", times)


def known_to(scheduler: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a config, perhaps another scheduler's, that a class of schedulers takes as arguments."""
    return {key: value for key, value in config.items() if key in signature(scheduler.__init__).parameters}
