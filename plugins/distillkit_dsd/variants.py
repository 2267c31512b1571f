"""The target of training DSD in the authors' code."""

from __future__ import annotations

import torch

from distillkit import distributed
from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import NoisePath, Prediction
from distillkit.sampling import generator


class NoisierStep(Target):
    """The teacher's x̂ from the same data, newly noised to the next noisier time.

    The authors' code has t + 1/T where equation 1 and Figure 1 have the next, cleaner step. Here, the noisier time is
    as far from the start of the jump as its end is, and at most the noisiest time. The update's seed seeds the noise.
    """

    name = "noisier-step"
    needs = frozenset({"data"})

    def stride(self, stage: Stage) -> int:
        """One fine step."""
        return 1

    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """A prediction at the noisier time."""
        return teacher.evaluations

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The teacher's x̂ there; the student's own step lands where it lands."""
        data = self.required(jumps.data, "jumps with data")
        start, end = jumps.times
        noisier = (2 * start - end).clamp(max=path.start)
        # For the samples of all processes, of which each keeps its own.
        shape = (len(data) * distributed.world_size(), *data.shape[1:])
        noise = distributed.shard(torch.randn(shape, generator=generator(*jumps.seed, "target")))
        z = path.noised(data, noise.to(data.device), noisier)
        x0 = teacher.predict(z, noisier, jumps.condition, jumps.step_size).x0
        return TargetBatch(x0, path.ddim(jumps.z, student.x0, start, end))
