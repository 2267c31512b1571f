"""The teacher's own state at the time where the student lands is what the student should have reached.

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
    """Where the samples stand on the solver's way from noise to data.

    Attributes:
        z: noisy samples, [B, C, H, W].
        x0: x̂ of the step before, [B, C, H, W]; of no meaning where `taken` is 0.
        time: the time of that x̂, [B]; likewise.
        taken: steps taken since the noise, [B].
    """

    z: torch.Tensor
    x0: torch.Tensor
    time: torch.Tensor
    taken: torch.Tensor

    @classmethod
    def begin(cls, z: torch.Tensor, t: torch.Tensor) -> Walk:
        """At noise z [B, C, H, W], times t [B]."""
        return cls(z, z, t, torch.zeros(len(z), dtype=torch.long, device=z.device))

    def restarted(self, where: torch.Tensor, z: torch.Tensor) -> Walk:
        """Back at noise z [B, C, H, W] where the mask [B] is set; on z's device."""
        device = z.device
        kept = torch.where(where.view(-1, 1, 1, 1), z, self.z.to(device))
        return Walk(kept, self.x0.to(device), self.time.to(device), self.taken.to(device).masked_fill(where, 0))

    def step(self, x0: torch.Tensor, t: torch.Tensor, s: torch.Tensor, order: int, steps: int, path: NoisePath) -> Walk:
        """One step from t to s [B] with the network's x̂ at t [B, C, H, W].

        DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) is the DDIM step with an x̂ extrapolated from the last two:

            D = x̂_t + (x̂_t − x̂_t')/2r,   r = (λ_t − λ_t')/(λ_s − λ_t),   λ = log(α/σ),
            z_s = (σ_s/σ_t) z_t − α_s (e^(−h) − 1) D,   h = λ_s − λ_t,

        as −α_s (e^(−h) − 1) = α_s − (σ_s/σ_t) α_t is what DDIM multiplies x̂ with. Of order 1, which is DDIM itself,
        are the first step, which has nothing to extrapolate from, and the last one, to clean data, where h = ∞.

        Args:
            order: 1 or 2.
            steps: steps of the whole grid.
        """
        if order == 2:
            r = (_lambda(path, t) - _lambda(path, self.time)) / (_lambda(path, s) - _lambda(path, t))
            between = ((self.taken > 0) & (self.taken < steps - 1)).view(-1, 1, 1, 1)
            aim = torch.where(between, x0 + (x0 - self.x0) / (2 * r), x0)
        else:
            aim = x0
        return Walk(path.ddim(self.z, aim, t, s), x0, t, self.taken + 1)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything, by name."""
        return dict(vars(self))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, torch.Tensor]) -> Walk:
        """From `state_dict`."""
        return cls(**state)


def _lambda(path: NoisePath, t: torch.Tensor) -> torch.Tensor:
    """Half the log of the signal-to-noise ratio at times t: [B] -> [B, 1, 1, 1]."""
    return path.snr(t).log() / 2


class TrajectoryMatching(Target):
    """Student and teacher leave the same noise and walk their own ways (SFD: Zhou et al. 2024, "Simple and Fast
    Distillation of Diffusion Models").

    The student makes one DDIM step a jump and goes on from where it lands; the teacher makes the jump's fine steps
    with a higher-order solver and goes on from where those land. So the student is shown the states that it will
    meet as a sampler, and is to lead them back to the teacher's: it learns to mend its own errors.

    From the student's state z at t, its landing at s is (σ_s/σ_t) z + A x̂ with A = α_s − (σ_s/σ_t) α_t. The teacher's
    state there, y, would be reached by x̃ = (y − (σ_s/σ_t) z)/A, the target. As landing − y = A (x̂ − x̃), a loss of
    weighting "landing" is one between the landings.
    """

    name = "trajectory-matching"
    needs = frozenset({"walk"})

    class Options(Target.Options):
        """
        Attributes:
            stride: the teacher's steps per student step: a stage of N steps teaches a student of N / stride.
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
        """One per fine step. The student's own is never among them, as it stands elsewhere."""
        return self.options.stride

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """All samples are about to begin a walk."""
        self._steps = stage.steps
        self._first = path.grid(stage.steps)[0]
        self._walk = None

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The x̂ that would land on the teacher's state, and where the student landed."""
        begin, end = jumps.times[0], jumps.times[-1]
        walk = self._walk or Walk.begin(jumps.z, begin)
        # A sample at the grid's first time is at new noise, which the teacher begins at as well.
        walk = walk.restarted(begin == self._first, jumps.z)
        for t, s in pairwise(jumps.times):
            x0 = teacher.predict(walk.z, t, jumps.condition).x0
            walk = walk.step(x0, t, s, self.options.order, self._steps, path)
        self._walk = walk
        aim = path.invert_ddim(jumps.z, walk.z, begin, end)
        return TargetBatch(aim, path.ddim(jumps.z, student.x0, begin, end))

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Where the teacher stands in its walks."""
        if self._walk is None:
            return {}
        return {key: distributed.all_gather(value) for key, value in self._walk.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from there."""
        mine = {key: distributed.shard(value) for key, value in state.items()}
        self._walk = Walk.from_state_dict(mine) if mine else None
