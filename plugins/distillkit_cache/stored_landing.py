"""Where the teacher landed when its trajectory was made: a target without a network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction


class StoredLanding(Target):
    """The x̂ with which one DDIM step lands where the teacher did, as the source says (`JumpBatch.landing`).

    x̃ = (z_s − (σ_s/σ_t) z_t)/(α_s − (σ_s/σ_t) α_t), which is z_s itself where a jump ends at clean data. It is what
    `merged-steps` in the form "landing" makes of the teacher's steps, and asks no network.
    """

    name = "stored-landing"
    needs = frozenset({"landing"})

    class Options(Target.Options):
        """
        Attributes:
            stride: the teacher's steps per jump; "all": the whole trajectory (Luhman & Luhman 2021).
        """

        stride: Literal["all"] | Annotated[int, Field(ge=1)] = "all"

    options: Options

    def stride(self, stage: Stage) -> int:
        """The teacher's steps per jump."""
        return stage.steps if self.options.stride == "all" else self.options.stride

    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """None: the trajectories are there."""
        return 0

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The x̂ to reach, and the landing."""
        landing = self.required(jumps.landing, "jumps with a landing")
        return TargetBatch(path.invert_ddim(jumps.z, landing, jumps.times[0], jumps.times[-1]), landing)
