"""What others make of DSD: a slow average as the teacher, and the target of training DSD in the authors' code."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher, Update
from distillkit.noise import Condition, NoisePath, Prediction, Predictor


class EmaTeacher(Teacher):
    """The student takes a jump's first fine step itself, its slow average the others.

    Costs one copy of the weights and no evaluation more than DSD. Self-distillation has no anchor but its starting
    point: errors that the student makes become its targets. An average that forgets slowly is such an anchor.
    """

    name = "ema"
    copies = 1

    class Options(Teacher.Options):
        """
        Attributes:
            decay: the average's decay per update; 1 never moves (the original network).
        """

        decay: float = Field(0.999, ge=0, le=1)

    options: Options

    @property
    def reuses_student(self) -> bool:
        """The student takes a jump's first fine step."""
        return True

    def setup(self, student: Predictor) -> None:
        """Start the average at the student."""
        self._average = student.frozen_copy()

    def predict(self, z: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        """The average's prediction."""
        prediction: Prediction = self._average(z, t, condition)
        return prediction

    def after_update(self, student: Predictor, update: Update) -> None:
        """Move the average towards the student."""
        self._average.ema_update(student, self.options.decay, update.made)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """The average's weights."""
        return self._average.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put the average's weights back."""
        self._average.load_state_dict(state)


class NoisierStep(Target):
    """The teacher's x̂ from the same data, newly noised to the next noisier time.

    The authors' code has t + 1/T where equation 1 and Figure 1 have the next, cleaner step. Here it is as far above the
    jump's start as the jump spans below it, and the noisiest time at most. The noise follows from the update's seed.
    """

    name = "noisier-step"
    needs = frozenset({"data"})

    def stride(self, stage: Stage) -> int:
        """One fine step."""
        return 1

    def teacher_evaluations(self, stage: Stage, teacher: Teacher) -> int:
        """One, at the noisier time."""
        return 1

    def compute(self, jumps: JumpBatch, student: Prediction, teacher: Teacher, path: NoisePath) -> TargetBatch:
        """The teacher's x̂ there; the student's own step lands where it lands."""
        data = self.required(jumps.data, "jumps with data")
        start, end = jumps.times
        noisier = (2 * start - end).clamp(max=path.start)
        # For the samples of all processes, of which each keeps its own.
        shape = (len(data) * distributed.world_size(), *data.shape[1:])
        noise = distributed.shard(torch.randn(shape, generator=torch.Generator().manual_seed(jumps.seed)))
        z = path.noised(data, noise.to(data.device), noisier)
        x0 = teacher.predict(z, noisier, jumps.condition).x0
        return TargetBatch(x0, path.ddim(jumps.z, student.x0, start, end))
