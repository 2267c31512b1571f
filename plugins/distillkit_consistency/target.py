"""The consistency target: the prediction of a slow average of the student, one step of the teacher later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pydantic import Field

from distillkit.errors import Mistake
from distillkit.interfaces import Averaged, JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction
from distillkit.sampling import consistency_of


class Consistency(Averaged, Target):
    """f(z_t, t) should equal f⁻(z_s, s). The teacher takes one DDIM step from t to s; f⁻ is an average of the student.

    f(z, t) = c_skip(t) z + c_out(t) x̂, with f(z, 0) = z (Song et al. 2023, algorithm 2, in LCM's parameterisation).
    The losses compare f instead of x̂.
    """

    name = "consistency"
    copies = 1

    class Options(Target.Options):
        """
        Attributes:
            decay: μ of the average f⁻ per update, required; 0 is the student itself, without a gradient.
        """

        decay: float | None = Field(None, ge=0, lt=1)

    options: Options

    @property
    def decay(self) -> float:
        """The option of that name."""
        return self.required(self.options.decay, "target.decay")

    def check(self) -> Iterator[Mistake]:
        """The decay has no default, because the result depends on it most."""
        if self.options.decay is None:
            yield Mistake(
                "decay",
                "is required: the target is a slow average (EMA) of the student; give its decay per update, as in 0.95",
            )

    def stride(self, stage: Stage) -> int:
        """One fine step."""
        return 1

    def step_size(self, stage: Stage) -> float:
        """All of the trajectory: f jumps to its end from everywhere."""
        return 1.0

    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """The teacher's step, unless the teacher is the student, and the average's prediction after it."""
        return 1 + (not teacher.reuses_student) * teacher.evaluations

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The average's f at the state where the teacher's step lands, and that state."""
        t, s = jumps.times
        x0 = student.x0
        if not teacher.reuses_student:
            x0 = teacher.predict(jumps.z, t, jumps.condition, jumps.step_size).x0
        z = path.ddim(jumps.z, x0, t, s)
        # The time of clean data is not a time of the network. There, as at time 0, f is z.
        s = s.clamp(min=0)
        goal = consistency_of(self.average(z, s, jumps.student_condition, jumps.step_size), s)

        def view(prediction: Prediction) -> Prediction:
            return replace(prediction, x0=consistency_of(prediction, t.clamp(min=0)))

        return TargetBatch(goal, z, view)
