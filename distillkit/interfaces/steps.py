"""The values that travel: a stage of the plan, a step of a trajectory, and its target.

Shapes: B batch, C H W sample, S + 1 times from a step's start to its landing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from distillkit.noise import Condition


@dataclass(frozen=True)
class Stage:
    """A part of a run: the sampler's fine grid and how long the student is taught on it.

    Attributes:
        steps: N_i, the number of fine steps of the grid. The student learns jumps of `stride` of them.
        updates: parameter updates (not samples).
    """

    steps: int
    updates: int


@dataclass(frozen=True)
class Step:
    """What a source hands out: where the student's jump begins, and the fine steps it spans.

    Attributes:
        z: noisy samples at times[0], [B, C, H, W].
        times: [S + 1, B], from the jump's start through the fine steps to its landing.
        condition: the samples' conditions.
        data, noise: the clean samples and the noise that z was made from, [B, C, H, W]; None on trajectories.
        landing: where the teacher lands at times[-1], [B, C, H, W]; None where the source does not know it.
        update: the number of the update that it is for, from 0; set by the loop.
        seed: for what a target draws, of this batch alone and the same in all processes; set by the loop.
    """

    z: torch.Tensor
    times: torch.Tensor
    condition: Condition
    data: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    landing: torch.Tensor | None = None
    update: int = 0
    seed: int = 0

    def to(self, device: torch.device) -> Step:
        """The same on another device."""
        return replace(
            self,
            z=self.z.to(device),
            times=self.times.to(device),
            condition=self.condition.map(lambda tensor: tensor.to(device)),
            data=None if self.data is None else self.data.to(device),
            noise=None if self.noise is None else self.noise.to(device),
            landing=None if self.landing is None else self.landing.to(device),
        )


@dataclass(frozen=True)
class TargetBatch:
    """What the student should have predicted, without gradient.

    Attributes:
        x0: the target x̂, [B, C, H, W].
        z_next: where trajectories go on from, [B, C, H, W]: where the fine steps landed, as a rule.
    """

    x0: torch.Tensor
    z_next: torch.Tensor
