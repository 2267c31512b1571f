"""The values that travel: a stage of the plan, a batch of jumps, and its target.

Shapes: B batch, C H W sample, S fine steps a jump.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from distillkit.noise import Condition, Prediction


@dataclass(frozen=True)
class Stage:
    """A part of a run: the sampler's fine grid, and how long the student is taught on it.

    Attributes:
        steps: N_i, the number of fine steps of the grid, `path.grid(steps)`.
        updates: parameter updates (not samples).
        stride: fine steps per jump; the target's.
        evaluations: network evaluations per update, as the journal counts them: all of its batches, the student's and
            the target's. Guidance doubles a batch, not the count.
    """

    steps: int
    updates: int
    stride: int = 1
    evaluations: int = 1

    @property
    def jumps(self) -> int:
        """Jumps from noise to data: the sampling steps for which the student is taught."""
        return self.steps // self.stride


@dataclass(frozen=True)
class JumpBatch:
    """What a source draws: for each sample, where the student's jump begins and the fine steps that it spans.

    Attributes:
        z: noisy samples at times[0], [B, C, H, W].
        times: [S + 1, B], from the jump's start through the fine steps to its landing.
        condition: the samples' conditions.
        data, noise: the clean samples and the noise that z was made from, [B, C, H, W]; None on trajectories.
        landing: where the teacher lands at times[-1], [B, C, H, W]; None where the source does not know it.
        seed: seeds what a target draws; differs from batch to batch, and is the same on all ranks; set by the loop.
    """

    z: torch.Tensor
    times: torch.Tensor
    condition: Condition
    data: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    landing: torch.Tensor | None = None
    seed: int = 0

    def to(self, device: torch.device) -> JumpBatch:
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


def _unchanged(prediction: Prediction) -> Prediction:
    return prediction


@dataclass(frozen=True)
class TargetBatch:
    """What the student should have predicted, without gradient.

    Attributes:
        x0: the target x̂, [B, C, H, W].
        z_next: where trajectories go on from, [B, C, H, W]: as a rule, where the fine steps landed.
        view: applied to the student's prediction, with its gradient, before losses compare it with `x0`.
    """

    x0: torch.Tensor
    z_next: torch.Tensor
    view: Callable[[Prediction], Prediction] = _unchanged
