"""The teacher's own state at the time where the student lands is what the student should have reached."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction
from distillkit_matching.solver import Walk


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
