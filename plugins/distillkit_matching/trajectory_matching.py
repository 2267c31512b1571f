"""A target from the teacher's state at the time where the student lands, which the student should have reached.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction
from distillkit.solver import SolverState


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
        self._walk: SolverState | None = None

    def stride(self, stage: Stage) -> int:
        """The teacher's steps per student step."""
        return self.options.stride

    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """A prediction per fine step. The student's is never reused, because its state differs from the teacher's."""
        return self.options.stride * teacher.evaluations

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """All samples restart from noise."""
        self._first = path.grid(stage.steps)[0]
        self._walk = None

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The x̂ that would land on the teacher's state, and where the student landed."""
        begin, end = jumps.times[0], jumps.times[-1]
        walk = self._walk or SolverState.begin(jumps.z, begin)
        # A sample at the grid's first time has new noise, and the teacher restarts there as well.
        walk = walk.restarted(begin == self._first, jumps.z)
        for t, s in pairwise(jumps.times):
            x0 = teacher.predict(walk.z, t, jumps.condition, jumps.fine_step_size).x0
            walk = walk.step(x0, t, s, self.options.order, path)
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
        self._walk = SolverState.from_state_dict(mine) if mine else None
