"""Direct self-distillation (Algorithm 2): the model teaches itself to take several steps of its own walk at once.

Two teachers and its target.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field

from distillkit.interfaces import Averaged, JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import Condition, NoisePath, Prediction, Predictor


class SelfTeacher(Teacher):
    """The network that is trained, as it is at this very update; no second network (Algorithm 2)."""

    name = "self"
    reuses_student = True
    follows_student = "update"

    def setup(self, student: Predictor) -> None:
        """Remember the student."""
        self._student = student

    @property
    def predictor(self) -> Predictor:
        """The student."""
        return self._student

    def predict(
        self, z: torch.Tensor, t: torch.Tensor, condition: Condition, step_size: torch.Tensor | None
    ) -> Prediction:
        """The student's own prediction."""
        prediction: Prediction = self._student(z, t, condition, step_size)
        return prediction


class EmaTeacher(Averaged, Teacher):
    """The student takes a jump's first fine step itself, its slow average the others.

    Costs one copy of the weights and no evaluation more than DSD. Self-distillation has no anchor but its starting
    point: errors that the student makes become its targets. An average that forgets slowly is such an anchor.
    """

    name = "ema"
    copies = 1
    reuses_student = True
    follows_student = "update"

    class Options(Teacher.Options):
        """
        Attributes:
            decay: the average's decay per update; 1 never moves (the original network).
        """

        decay: float = Field(0.999, ge=0, le=1)

    options: Options

    @property
    def decay(self) -> float:
        """The option of that name."""
        return self.options.decay

    @property
    def predictor(self) -> Predictor:
        """The average."""
        return self.average

    def predict(
        self, z: torch.Tensor, t: torch.Tensor, condition: Condition, step_size: torch.Tensor | None
    ) -> Prediction:
        """The average's prediction."""
        prediction: Prediction = self.average(z, t, condition, step_size)
        return prediction


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
        """A prediction per fine step, but for a first one that the student has made already."""
        return (self.stride(stage) - teacher.reuses_student) * teacher.evaluations

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The x̂ to reach, and where the fine steps landed."""
        z, x0 = jumps.z, student.x0
        for i, (t, s) in enumerate(pairwise(jumps.times)):
            if i > 0 or not teacher.reuses_student:
                x0 = teacher.predict(z, t, jumps.condition, jumps.fine_step_size).x0
            z = path.ddim(z, x0, t, s)
        if self.options.form == "landing":
            x0 = path.invert_ddim(jumps.z, z, jumps.times[0], jumps.times[-1])
        return TargetBatch(x0, z)
