"""The semigroup target: a jump should land where two jumps of half its size do.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field

from distillkit.interfaces import Averaged, JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction
from distillkit.solver import SolverState


class Semigroup(Averaged, Target):
    """One jump of size d should land where two of size d/2 do, by a slow average of the student that is told d/2
    (Frans et al. 2024, "One Step Diffusion via Shortcut Models"; the semigroup property of Boffi et al. 2025).

    The smallest jumps land where the teacher's own steps do, which anchors all others. Like them, halves are steps
    from z_t, so that x̃ = (z_s − (σ_s/σ_t) z_t)/(α_s − (σ_s/σ_t) α_t) mixes the x̂ of these steps, however small the
    divisor is.
    """

    name = "semigroup"
    needs = frozenset({"levels"})
    copies = 1

    class Options(Target.Options):
        """
        Attributes:
            stride: the teacher's steps per smallest jump, an even number: a stage of N steps has smallest jumps of
                1/n of the trajectory with n = N / stride, which must be the largest of `source.levels`.
            order: of the teacher's solver: 1 is DDIM, 2 DPM-Solver++(2M), which begins anew with each jump.
            decay: of the average per update; 0 is the student itself, without a gradient.
            walk: where samples go on from: where the "target" landed, or the "student".
        """

        stride: int = Field(2, ge=2, multiple_of=2)
        order: Literal[1, 2] = 1
        decay: float = Field(0.98, ge=0, lt=1)
        walk: Literal["target", "student"] = "target"

    options: Options

    @property
    def decay(self) -> float:
        """The option of that name."""
        return self.options.decay

    def stride(self, stage: Stage) -> int:
        """The teacher's steps per smallest jump."""
        return self.options.stride

    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """The teacher's steps and the average's two, each for a part of the batch."""
        return self.options.stride * teacher.evaluations + 2

    def unteachable(self, stage: Stage, levels: tuple[int, ...]) -> str | None:
        """Each level learns from the one of twice as many jumps, and the last one from the teacher."""
        for level in levels:
            if level != stage.jumps and 2 * level not in levels:
                return (
                    f"{level} learns from {2 * level}, and {stage.jumps} from the teacher; expected 1, 2, 4, … to there"
                )
        return None if levels else "give the numbers of steps that the student shall take, as in [1, 2, 4]"

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Remember which jumps are the smallest."""
        self._smallest = stage.jumps

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The x̂ that lands where the two halves, or the teacher's steps, do."""
        landing = torch.empty_like(jumps.z)
        for walk, wanted in ((self._by_teacher, True), (self._by_average, False)):
            rows = [row for row, level in enumerate(jumps.levels) if (level == self._smallest) is wanted]
            # Where there are none, one sample is walked for nothing: processes that share a network's weights must
            # evaluate it equally often.
            walked = walk(jumps.take(rows or [0]), teacher, path)
            if rows:
                landing[torch.tensor(rows, device=landing.device)] = walked
        begin, end = jumps.times[0], jumps.times[-1]
        x0 = path.invert_ddim(jumps.z, landing, begin, end)
        by_student = self.options.walk == "student"
        return TargetBatch(x0, path.ddim(jumps.z, student.x0, begin, end) if by_student else landing)

    def _by_teacher(self, jumps: JumpBatch, teacher: Teacher, path: NoisePath) -> torch.Tensor:
        """Where the teacher's fine steps land, [B, C, H, W]."""
        state = SolverState.begin(jumps.z, jumps.times[0])
        for t, s in pairwise(jumps.times):
            x0 = teacher.predict(state.z, t, jumps.condition, jumps.fine_step_size).x0
            state = state.step(x0, t, s, self.options.order, path)
        return state.z

    def _by_average(self, jumps: JumpBatch, teacher: Teacher, path: NoisePath) -> torch.Tensor:
        """Where the average's two halves land, [B, C, H, W]."""
        size = None if jumps.step_size is None else jumps.step_size / 2
        z = jumps.z
        for t, s in pairwise(jumps.times[:: self.options.stride // 2]):
            z = path.ddim(z, self.average(z, t, jumps.student_condition, size).x0, t, s)
        return z
