"""Direct self-distillation (Algorithm 2): the model teaches itself to take several steps of its own walk at once.

Two teachers, its target and its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.interfaces import Data, JumpBatch, Model, Source, Stage, Target, TargetBatch, Teacher, Update
from distillkit.noise import Condition, NoisePath, Prediction, Predictor


class SelfTeacher(Teacher):
    """The network that is trained, as it is at this very update; no second network (Algorithm 2)."""

    name = "self"
    reuses_student = True
    follows_student = "update"

    def setup(self, student: Predictor) -> None:
        """Remember the student."""
        self._student = student

    def predict(
        self, z: torch.Tensor, t: torch.Tensor, condition: Condition, step_size: torch.Tensor | None
    ) -> Prediction:
        """The student's own prediction."""
        prediction: Prediction = self._student(z, t, condition, step_size)
        return prediction


class EmaTeacher(Teacher):
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

    def setup(self, student: Predictor) -> None:
        """Start the average at the student."""
        self._average = student.frozen_copy()

    def predict(
        self, z: torch.Tensor, t: torch.Tensor, condition: Condition, step_size: torch.Tensor | None
    ) -> Prediction:
        """The average's prediction."""
        prediction: Prediction = self._average(z, t, condition, step_size)
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


class Trajectory(Source):
    """Walks from noise to data, a jump a draw, and begins again (Algorithm 2).

    If the next state of a walk is not finite, the walk restarts from its own noise. It takes only the jumps that are
    left of it, so that the samples of a batch stay in step.

    All samples of a batch walk in step; staggered, they stand at different positions, so that one update sees many
    noise levels (the paper names samples that are not independent as its limitation).
    """

    name = "trajectory"
    gives = frozenset({"walk"})

    class Options(Source.Options):
        """
        Attributes:
            staggered: spread the batch over the trajectory. Sample i's first walk of a stage is cut short by the
                share i/B of its jumps, which costs no evaluation.
        """

        staggered: bool = False

    options: Options

    @property
    def sequential(self) -> bool:
        """Whether the batch walks in step."""
        return not self.options.staggered

    def setup(self, model: Model, data: Data | None) -> None:
        """Remember the model whose noise and conditions are drawn."""
        self._model = model

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Lay out the stage's jumps; all samples are about to begin a walk."""
        # [jumps, stride + 1]: each jump's times, its landing being the next one's start.
        self._times = path.grid(stage.steps).unfold(0, stage.stride + 1, stage.stride)
        self._initial_scale = path.initial_scale
        # Where the samples of all processes stand, as new noise is drawn for all when any has arrived.
        batch, jumps = self.global_batch, len(self._times)
        self._position = torch.zeros(batch, dtype=torch.long)
        self._left = torch.zeros(batch, dtype=torch.long)
        self._length = torch.full((batch,), jumps)
        if self.options.staggered:
            self._length -= torch.arange(batch) * jumps // batch
        # This process's samples: which of all they are, their z and conditions, of which there are none yet.
        self._mine = self.shard(torch.arange(batch))
        self._z = torch.zeros(len(self._mine), 1, 1, 1)
        self._condition = Condition()
        # The noise at which their walks began, and how many jumps a restart has put them behind `_position`. These stay
        # on the device: reading there whether a state is finite would make the host wait.
        self._start = self._z
        self._behind = torch.zeros(len(self._mine), dtype=torch.long)

    def draw(self, generator: torch.Generator) -> JumpBatch:
        """The jumps at which the samples stand; those whose walk is over begin a new one."""
        over = self._left == 0
        if over.any():
            self._begin(over, generator)
        jump = self._position_on(self._z.device) - self._behind
        self._times = self._times.to(jump.device)
        self._position = torch.where(self._left == 1, 0, self._position + 1)
        self._left -= 1
        return JumpBatch(self._z, self._times[jump].T.contiguous(), self._condition)

    def _begin(self, over: torch.Tensor, generator: torch.Generator) -> None:
        """New noise and conditions for the samples in the mask `over`, [B] of all processes."""
        shape, device = self._model.spec.sample_shape, self._z.device
        noise = self.shard(torch.randn(len(over), *shape, generator=generator)) * self._initial_scale
        z, condition = noise.to(device), self.draw_condition(self._model, generator)
        if device.type != "cpu":
            condition = condition.to(device)
        mine = over[self._mine].to(device)
        # The first time there is nothing to keep.
        self._condition = condition if over.all() else _mix(mine, condition, self._condition)
        mask = mine.view(-1, 1, 1, 1)
        self._z = torch.where(mask, z, self._z)
        self._start = torch.where(mask, z, self._start.to(device))
        self._behind = self._behind.to(device).masked_fill(mine, 0)
        self._position[over] = 0
        self._left = torch.where(over, self._length, self._left)
        self._length = torch.where(over, len(self._times), self._length)

    def advance(self, z_next: torch.Tensor) -> None:
        """Go on from where the fine steps landed, or restart a walk whose state is not finite."""
        device, finite = z_next.device, z_next.isfinite().flatten(1).all(1)
        if self._z.device != device:
            self._condition = self._condition.to(device)
        self._z = torch.where(finite.view(-1, 1, 1, 1), z_next, self._start.to(device))
        self._behind = torch.where(finite, self._behind.to(device), self._position_on(device))

    def _position_on(self, device: torch.device) -> torch.Tensor:
        """`_position` of this process's samples. It is not pinned memory, so the copy has read it when this returns."""
        return self._position[self._mine].to(device, non_blocking=True)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Where every sample stands."""
        mine = {"z": self._z, "start": self._start, "behind": self._behind} | self._condition.tensors()
        return {"position": self._position, "left": self._left, "length": self._length} | {
            key: distributed.all_gather(value) for key, value in mine.items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from there."""
        self._position, self._left, self._length = (state[key] for key in ("position", "left", "length"))
        mine = {key: self.shard(value) for key, value in state.items()}
        self._z, self._start, self._behind = mine["z"], mine["start"], mine["behind"]
        self._condition = Condition.from_tensors(mine)


def _mix(mask: torch.Tensor, new: Condition, old: Condition) -> Condition:
    """`new` where the mask [B] is set, `old` elsewhere; all on one device."""
    fresh, kept = new.tensors(), old.tensors()
    mixed = {
        key: torch.where(mask.view(-1, *[1] * (value.dim() - 1)), value, kept[key]) for key, value in fresh.items()
    }
    return Condition.from_tensors(mixed)
