"""A target from the teacher's state at the time where the student lands, which the student should have reached.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction


@dataclass(frozen=True)
class Walk:
    """The state of a multistep solver between noise and data.

    Attributes:
        z: noisy samples, [B, C, H, W].
        x0: x̂ of the previous step, [B, C, H, W]; without meaning where `taken` is 0.
        time: the time of that x̂, [B]; without meaning where `taken` is 0.
        taken: number of steps since the noise, [B].
    """

    z: torch.Tensor
    x0: torch.Tensor
    time: torch.Tensor
    taken: torch.Tensor

    @classmethod
    def begin(cls, z: torch.Tensor, t: torch.Tensor) -> Walk:
        """Start at noise z [B, C, H, W] and times t [B]."""
        return cls(z, z, t, torch.zeros(len(z), dtype=torch.long, device=z.device))

    def restarted(self, where: torch.Tensor, z: torch.Tensor) -> Walk:
        """Restart at noise z [B, C, H, W] where the mask [B] is set; on z's device."""
        device = z.device
        kept = torch.where(where.view(-1, 1, 1, 1), z, self.z.to(device))
        return Walk(kept, self.x0.to(device), self.time.to(device), self.taken.to(device).masked_fill(where, 0))

    def step(self, x0: torch.Tensor, t: torch.Tensor, s: torch.Tensor, order: int, steps: int, path: NoisePath) -> Walk:
        """One step from t to s [B] with the network's x̂ at t [B, C, H, W].

        DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) is the DDIM step with an x̂ extrapolated from the last two:

            D = x̂_t + (x̂_t − x̂_t')/2r,   r = (λ_t − λ_t')/(λ_s − λ_t),   λ = log(α/σ),
            z_s = (σ_s/σ_t) z_t − α_s (e^(−h) − 1) D,   h = λ_s − λ_t,

        because −α_s (e^(−h) − 1) = α_s − (σ_s/σ_t) α_t is DDIM's factor on x̂. The first step, which has no previous x̂,
        and the last step, to clean data, where h = ∞, are of order 1, which is DDIM.

        Args:
            x0: the network's x̂ at t, [B, C, H, W].
            t: the current times, [B].
            s: the next times, [B].
            order: 1 or 2.
            steps: number of steps of the whole grid.
            path: the noise path.
        """
        if order == 2:
            r = (_lambda(path, t) - _lambda(path, self.time)) / (_lambda(path, s) - _lambda(path, t))
            between = ((self.taken > 0) & (self.taken < steps - 1)).view(-1, 1, 1, 1)
            extrapolated = torch.where(between, x0 + (x0 - self.x0) / (2 * r), x0)
        else:
            extrapolated = x0
        return Walk(path.ddim(self.z, extrapolated, t, s), x0, t, self.taken + 1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors by name."""
        return dict(vars(self))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> Walk:
        """The inverse of `state_dict`."""
        return cls(**state)


def _lambda(path: NoisePath, t: torch.Tensor) -> torch.Tensor:
    """Half the log of the signal-to-noise ratio at times t: [B] -> [B, 1, 1, 1]."""
    return path.snr(t).log() / 2


class TrajectoryMatching(Target):
    """Student and teacher start from the same noise and continue from their own states (SFD: Zhou et al. 2024, "Simple
    and Fast Distillation of Diffusion Models").

    In each jump, the student takes one DDIM step, and the teacher takes the fine steps with a higher-order solver. So
    the student is trained on the states that it meets as a sampler, and learns to correct its own errors.

    From its state z at t, the student lands at s on (σ_s/σ_t) z + A x̂ with A = α_s − (σ_s/σ_t) α_t. It would land on
    the teacher's state y with x̃ = (y − (σ_s/σ_t) z)/A, which is the target. Because landing − y = A (x̂ − x̃), a loss
    with the weighting "landing" compares the two landings.
    """

    name = "trajectory-matching"
    needs = frozenset({"walk"})

    class Options(Target.Options):
        """
        Attributes:
            stride: the teacher's steps per step of the student: a stage of N steps trains a student for N / stride.
            order: of the teacher's solver: 2 is DPM-Solver++(2M), 1 DDIM.
        """

        stride: int = Field(4, ge=1)
        order: Literal[1, 2] = 2

    options: Options

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._walk: Walk | None = None

    def stride(self, stage: Stage) -> int:
        """The teacher's steps per student step."""
        return self.options.stride

    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """A prediction per fine step. The student's is never reused, because its state differs from the teacher's."""
        return self.options.stride * teacher.evaluations

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """All samples restart from noise."""
        self._steps = stage.steps
        self._first = path.grid(stage.steps)[0]
        self._walk = None

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The x̂ that would land on the teacher's state, and where the student landed."""
        begin, end = jumps.times[0], jumps.times[-1]
        walk = self._walk or Walk.begin(jumps.z, begin)
        # A sample at the grid's first time has new noise, and the teacher restarts there as well.
        walk = walk.restarted(begin == self._first, jumps.z)
        for t, s in pairwise(jumps.times):
            x0 = teacher.predict(walk.z, t, jumps.condition).x0
            walk = walk.step(x0, t, s, self.options.order, self._steps, path)
        self._walk = walk
        x0 = path.invert_ddim(jumps.z, walk.z, begin, end)
        return TargetBatch(x0, path.ddim(jumps.z, student.x0, begin, end))

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The state of the teacher's solver."""
        if self._walk is None:
            return {}
        return {key: distributed.all_gather(value) for key, value in self._walk.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load the state of the teacher's solver."""
        mine = {key: distributed.shard(value) for key, value in state.items()}
        self._walk = Walk.from_state_dict(mine) if mine else None
