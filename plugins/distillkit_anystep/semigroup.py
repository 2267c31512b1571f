"""The semigroup target: a jump should land where two jumps of half its size do.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.interfaces import Averaged, JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction
from distillkit.sampling import generator
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
            teacher_share: of the samples of larger jumps, those whose first half is the teacher's, in half as many
                steps as a smallest jump (SCFM, 2510.17858: 0.4).
            walk: where samples go on from: where the "target" landed, or the "student".
        """

        stride: int = Field(2, ge=2, multiple_of=2)
        order: Literal[1, 2] = 1
        decay: float = Field(0.98, ge=0, lt=1)
        teacher_share: float = Field(0, ge=0, le=1)
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
        whole, half = self.options.stride, self.options.stride // 2
        both = half * teacher.evaluations + 1 if self.options.teacher_share else 0
        return whole * teacher.evaluations + 2 + both

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
        landing, taught = torch.empty_like(jumps.z), self._taught(jumps)
        for halves in (2, 1, 0) if self.options.teacher_share else (2, 0):
            rows = [row for row, own in enumerate(taught) if own == halves]
            # Where there are none, one sample is walked for nothing: processes that share a network's weights must
            # evaluate it equally often.
            walked = self._land(jumps.take(rows or [0]), halves, teacher, path)
            if rows:
                landing[torch.tensor(rows, device=landing.device)] = walked
        begin, end = jumps.times[0], jumps.times[-1]
        x0 = path.invert_ddim(jumps.z, landing, begin, end)
        by_student = self.options.walk == "student"
        return TargetBatch(x0, path.ddim(jumps.z, student.x0, begin, end) if by_student else landing)

    def _taught(self, jumps: JumpBatch) -> list[int]:
        """For each sample, how many of its jump's halves are the teacher's."""
        first = [0] * len(jumps.levels)
        if self.options.teacher_share:
            # Drawn for the samples of all processes, of which each keeps its own.
            drawn = torch.rand(len(first) * distributed.world_size(), generator=generator(*jumps.seed, "target"))
            first = (distributed.shard(drawn) < self.options.teacher_share).int().tolist()
        return [2 if level == self._smallest else own for level, own in zip(jumps.levels, first, strict=True)]

    def _land(self, jumps: JumpBatch, taught: int, teacher: Teacher, path: NoisePath) -> torch.Tensor:
        """Where a jump lands, [B, C, H, W]: the teacher takes the fine steps of its first `taught` halves, and the
        average takes each other half in one step."""
        half, state = self.options.stride // 2, SolverState.begin(jumps.z, jumps.times[0])
        for t, s in pairwise(jumps.times[: taught * half + 1]):
            x0 = teacher.predict(state.z, t, jumps.condition, jumps.fine_step_size).x0
            state = state.step(x0, t, s, self.options.order, path)
        size, z = None if jumps.step_size is None else jumps.step_size / 2, state.z
        for t, s in pairwise(jumps.times[taught * half :: half]):
            z = path.ddim(z, self.average(z, t, jumps.student_condition, size).x0, t, s)
        return z
