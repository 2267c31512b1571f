"""Parts of a run that a checkpoint may have to hold."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from distillkit.component import Component


class Stateful(Component):
    """A part of a run that may have a state of its own."""

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Optional. What a checkpoint must hold besides the student.

        Called in all processes; the first one writes it. Gather what belongs to a process's own samples here
        (`distributed.all_gather`), and take its part in `load_state_dict` (`distributed.shard`).
        """
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Optional. Go on from `state_dict`; called after `start_stage`, if in the middle of a stage."""
