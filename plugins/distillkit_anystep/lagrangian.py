"""The Lagrangian target: as a jump lands further along, its landing moves as the teacher moves there.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

import torch
from pydantic import Field

from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction, Predictor


class Lagrangian(Target):
    """∂_s X_{t→s} is the teacher's velocity at (X_{t→s}, s), with X_{t→s} where the student's jump from z_t lands
    (Boffi et al. 2025, "How to build a consistency model"); from noise alone, FreeFlow's prediction (2511.19428).

    A jump is a DDIM step, so X_{t→s}/σ_s = z_t/σ_t + (α_s/σ_s − α_t/σ_t) x̂, and the teacher's velocity is that of a
    step without length, ∂_s(X/σ_s) = x̂_teacher ∂_s(α_s/σ_s). With α/σ = cot φ, on any noise path,

        x̂ = x̂_teacher(X_{t→s}, s) − (sin φ_s sin(φ_t − φ_s)/sin φ_t) ∂x̂/∂(−φ_s)        φ = atan2(σ, α).

    The right side is the target. In it ∂x̂ is the difference of what the student predicts for landings one step of the
    stage's grid further and less far. A jump to clean data, where the factor is 0, ends with the teacher's step from
    where the student's lands one step of the grid before.
    """

    name = "lagrangian"
    needs = frozenset({"step_size"})

    class Options(Target.Options):
        """
        Attributes:
            stride: the steps of the stage's grid per smallest jump. The more, the smaller the differences are.
        """

        stride: int = Field(4, ge=2)

    options: Options

    def stride(self, stage: Stage) -> int:
        """The option of that name."""
        return self.options.stride

    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """The student's two for the difference, and the teacher's at the landing."""
        return 2 + teacher.evaluations

    def setup(self, student: Predictor) -> None:
        """Remember the student."""
        self._student = student

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Remember the stage's grid."""
        self._grid = path.grid(stage.steps)

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The x̂ of a jump whose landing moves as the teacher does; walks go on where the student's jump lands."""
        t, s = jumps.times[0], jumps.times[-1]
        grid = self._grid = self._grid.to(s.device)
        step = 1 / (len(grid) - 1)
        size = self.required(jumps.step_size, "jumps with a step size")
        # [B]: the landing's place in the grid, which falls, and the times next to it. Between two times of the grid, as
        # `noised-data` may land, they are those next to the cleaner one.
        place = torch.searchsorted(-grid, -s)
        before, after = torch.minimum(grid[place - 1], t), grid[(place + 1).clamp(max=len(grid) - 1)]
        shorter, longer = (
            self._student(jumps.z, t, jumps.student_condition, size + change).x0 for change in (-step, step)
        )
        ends = s == path.clean
        to_clean = ends.view(-1, 1, 1, 1)
        asked = torch.where(ends, before, s)
        landing = path.ddim(jumps.z, torch.where(to_clean, shorter, student.x0), t, asked)
        x0 = teacher.predict(landing, asked, jumps.condition, jumps.fine_step_size).x0
        phi_t, phi_s, phi_before, phi_after = (_angle(path, time) for time in (t, s, before, after))
        factor = phi_s.sin() * (phi_t - phi_s).sin() / phi_t.sin()
        slope = (longer - shorter) / (phi_before - phi_after)
        return TargetBatch(torch.where(to_clean, x0, x0 - factor * slope), path.ddim(jumps.z, student.x0, t, s))


def _angle(path: NoisePath, t: torch.Tensor) -> torch.Tensor:
    """φ = atan2(σ, α) at times t: [B] -> [B, 1, 1, 1]."""
    alpha, sigma = path.alpha_sigma(t)
    return torch.atan2(sigma, alpha)
