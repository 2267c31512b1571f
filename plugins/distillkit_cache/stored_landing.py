"""A target without a network: the state where the teacher landed when its trajectory was generated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction


class StoredLanding(Target):
    """The x̂ with which one DDIM step lands where the teacher did (`JumpBatch.landing`).

    x̃ = (z_s − (σ_s/σ_t) z_t)/(α_s − (σ_s/σ_t) α_t), which is z_s itself if a jump ends at clean data. `merged-steps`
    with the form "landing" computes the same from the teacher's steps; this target evaluates no network.
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
        """0: the landings are stored."""
        return 0

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The x̂ to reach, and the landing."""
        landing = self.required(jumps.landing, "jumps with a landing")
        return TargetBatch(path.invert_ddim(jumps.z, landing, jumps.times[0], jumps.times[-1]), landing)
