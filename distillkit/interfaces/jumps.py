"""The values that travel in an update: the jumps that a source draws, and what a target makes of them.

Shapes: B batch, C H W sample, S fine steps per jump.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from distillkit.noise import Condition, Prediction


@dataclass(frozen=True)
class JumpBatch:
    """What a source draws: for each sample, where the student's jump begins and the fine steps that it spans.

    Attributes:
        z: noisy samples at times[0], [B, C, H, W].
        times: [S + 1, B], from the jump's start through the fine steps to its landing.
        condition: the samples' conditions.
        data, noise: the clean samples and the noise that z was made from, [B, C, H, W]; None on trajectories.
        landing: where the teacher lands at times[-1], [B, C, H, W]; None where the source does not know it.
        step_size: the jumps as shares of the trajectory, [B]; None: as `Target.step_size` says. See `Predictor`.
        levels: for each sample, the number of steps of whose grid its jump is one; empty where all have the stage's.
            On the host, so that a target can treat them differently without waiting for the device.
        baked: whether the condition's guidance is the teacher's alone (`[student] guidance`). Set by the loop.
        seed: what a target's random numbers depend on: (the run's seed, update, batch of the update). Set by the loop.
    """

    z: torch.Tensor
    times: torch.Tensor
    condition: Condition
    data: torch.Tensor | None = None
    noise: torch.Tensor | None = None
    landing: torch.Tensor | None = None
    step_size: torch.Tensor | None = None
    levels: tuple[int, ...] = ()
    baked: bool = False
    seed: tuple[int, ...] = ()

    def to(self, device: torch.device) -> JumpBatch:
        """The same batch on another device."""
        sizes = self.times if self.step_size is None else self.step_size
        if self.z.device == self.times.device == sizes.device == device:
            return self
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if hasattr(value, "to")})

    def take(self, rows: list[int]) -> JumpBatch:
        """The samples of these rows alone."""
        index = torch.tensor(rows, device=self.z.device)

        def at(values: torch.Tensor | None) -> torch.Tensor | None:
            return None if values is None else values[index]

        return replace(
            self,
            z=self.z[index],
            times=self.times[:, index],
            condition=self.condition.map(lambda values: values[index]),
            data=at(self.data),
            noise=at(self.noise),
            landing=at(self.landing),
            step_size=at(self.step_size),
            levels=tuple(self.levels[row] for row in rows) if self.levels else (),
        )

    @property
    def student_condition(self) -> Condition:
        """The condition for the student, and for an average of it."""
        return replace(self.condition, guidance=None) if self.baked else self.condition

    @property
    def fine_step_size(self) -> torch.Tensor | None:
        """The `step_size` of each of a jump's fine steps, [B]."""
        return None if self.step_size is None else self.step_size / (len(self.times) - 1)


@dataclass(frozen=True)
class TargetBatch:
    """What the student should have predicted, without gradient.

    Attributes:
        x0: the target x̂, [B, C, H, W].
        z_next: where trajectories go on from, [B, C, H, W]: as a rule, where the fine steps landed.
        view: applied to the student's prediction, with its gradient, before losses compare it with `x0`; None: losses
            compare the prediction itself.
    """

    x0: torch.Tensor
    z_next: torch.Tensor
    view: Callable[[Prediction], Prediction] | None = None
