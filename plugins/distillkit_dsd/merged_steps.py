"""Several DDIM steps merged into one: the target of DSD, TSD, progressive distillation and Luhman & Luhman."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field

from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction


class MergedSteps(Target):
    """Walk the jump's fine steps with the teacher; the student should have got there at once."""

    name = "merged-steps"

    class Options(Target.Options):
        """
        Attributes:
            stride: fine steps per jump; "all": the whole trajectory (Luhman & Luhman 2021). 1 is for a teacher that
                knows more than the student at the very same z (guided distillation).
            form: "landing": the x̂ with which one DDIM step lands where the fine steps do (Algorithms 1 and 2);
                "last": the last fine step's x̂ (the prose of section 4.1, and the authors' code).
        """

        stride: Literal["all"] | Annotated[int, Field(ge=1)] = 2
        form: Literal["landing", "last"] = "landing"

    options: Options

    def stride(self, stage: Stage) -> int:
        """Fine steps per jump."""
        return stage.steps if self.options.stride == "all" else self.options.stride

    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """One per fine step, but for a first one that the student has made already."""
        return self.stride(stage) - teacher.reuses_student

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The x̂ to reach, and where the fine steps landed."""
        z, x0 = jumps.z, student.x0
        for i, (t, s) in enumerate(pairwise(jumps.times)):
            reused = teacher.reuse(student) if i == 0 else None
            x0 = (reused or teacher.predict(z, t, jumps.condition)).x0
            z = path.ddim(z, x0, t, s)
        if self.options.form == "landing":
            x0 = path.invert_ddim(jumps.z, z, jumps.times[0], jumps.times[-1])
        return TargetBatch(x0, z)
