"""Direct self-distillation (Algorithm 2): the model teaches itself to take several steps of its own walk at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field

from distillkit import distributed
from distillkit.interfaces import Data, JumpBatch, Model, Source, Stage, Target, TargetBatch, Teacher, draw_condition
from distillkit.noise import Condition, NoisePath, Prediction, Predictor


class SelfTeacher(Teacher):
    """The network that is trained, as it is at this very update; no second network (Algorithm 2)."""

    name = "self"

    @property
    def reuses_student(self) -> bool:
        """The student takes a jump's first fine step."""
        return True

    def setup(self, student: Predictor) -> None:
        """Remember the student."""
        self._student = student

    def predict(self, z: torch.Tensor, t: torch.Tensor, condition: Condition) -> Prediction:
        """The student's own prediction."""
        prediction: Prediction = self._student(z, t, condition)
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


class Trajectory(Source):
    """Walks from noise to data, a jump a draw, and begins again (Algorithm 2).

    A walk whose next place is not finite begins anew where it began, and ends when it would have ended.

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
        batch = self.global_batch
        jumps = stage.jumps
        self._initial_scale = path.initial_scale
        # [jumps, stride + 1]: each jump's times, its landing being the next one's start.
        self._times = path.grid(stage.steps).unfold(0, stage.stride + 1, stage.stride)
        # Where the samples of all processes stand, as new noise is drawn for all when any has arrived.
        self._position = torch.zeros(batch, dtype=torch.long)
        self._left = torch.zeros(batch, dtype=torch.long)
        self._length = torch.full((batch,), jumps)
        if self.options.staggered:
            self._length -= torch.arange(batch) * jumps // batch
        self._jumps: JumpBatch | None = None
        # Where this process's walks began, and how many jumps they are behind `_position` since they began anew: known
        # to the device alone, so that nobody waits to see whether a place is finite.
        self._start = torch.zeros(self.options.batch, 1, 1, 1)
        self._behind = torch.zeros(self.options.batch, dtype=torch.long)

    def draw(self, generator: torch.Generator) -> JumpBatch:
        """The jumps at which the samples stand; those whose walk is over begin a new one."""
        over = self._left == 0
        if over.any():
            self._begin(over, generator)
        assert self._jumps is not None
        place = self._place(self._jumps.z.device) - self._behind
        self._times = self._times.to(place.device)
        times = self._times[place].T.contiguous()
        self._jumps = replace(self._jumps, times=times)
        self._position = torch.where(self._left == 1, 0, self._position + 1)
        self._left -= 1
        return self._jumps

    def _begin(self, over: torch.Tensor, generator: torch.Generator) -> None:
        """New noise and conditions for the samples in the mask `over`, [B]."""
        batch = self.global_batch
        noise = (
            self.shard(torch.randn(batch, *self._model.spec.sample_shape, generator=generator)) * self._initial_scale
        )
        condition = draw_condition(self._model, batch, self.draw_guidance(batch, generator), generator)
        new = JumpBatch(noise, self.shard(self._position), condition.map(self.shard))
        self._jumps = new if self._jumps is None else _mix(self.shard(over), new, self._jumps)
        z = self._jumps.z
        mask = self.shard(over).to(z.device)
        self._start = torch.where(mask.view(-1, 1, 1, 1), z, self._start.to(z.device))
        self._behind = self._behind.to(z.device).masked_fill(mask, 0)
        jumps = len(self._times)
        self._position[over] = 0
        self._left = torch.where(over, self._length, self._left)
        self._length = torch.where(over, jumps, self._length)

    def advance(self, z_next: torch.Tensor) -> None:
        """Go on from where the fine steps landed; where that is not finite, from the walk's beginning."""
        assert self._jumps is not None
        finite = z_next.isfinite().flatten(1).all(1)
        z = torch.where(finite.view(-1, 1, 1, 1), z_next, self._start.to(z_next.device))
        self._behind = torch.where(finite, self._behind.to(z.device), self._place(z.device))
        self._jumps = replace(self._jumps, z=z).to(z.device)

    def _place(self, device: torch.device) -> torch.Tensor:
        """`_position` there; what is copied without being waited for has been read by then, as it is not pinned."""
        return self.shard(self._position).to(device, non_blocking=True)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Where every sample stands."""
        if self._jumps is None:
            return {}
        mine = {"z": self._jumps.z, "start": self._start, "behind": self._behind} | self._jumps.condition.tensors()
        return {"position": self._position, "left": self._left, "length": self._length} | {
            key: distributed.all_gather(value) for key, value in mine.items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from there."""
        if not state:
            return

        self._position, self._left, self._length = (state[key] for key in ("position", "left", "length"))
        mine = {key: self.shard(value) for key, value in state.items()}
        self._start, self._behind = mine["start"], mine["behind"]
        self._jumps = JumpBatch(mine["z"], mine["position"], Condition.from_tensors(mine))


def _mix(mask: torch.Tensor, new: JumpBatch, old: JumpBatch) -> JumpBatch:
    """`new` where the mask [B] is set, `old` elsewhere."""
    new = new.to(old.z.device)
    mask = mask.to(old.z.device)

    def pick(fresh: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        return torch.where(mask.view(-1, *[1] * (fresh.dim() - 1)), fresh, kept)

    def pick_all(fresh: Mapping[str, torch.Tensor], kept: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {key: pick(value, kept[key]) for key, value in fresh.items()}

    a, b = new.condition, old.condition
    condition: Condition = replace(
        a,
        inputs=pick_all(a.inputs, b.inputs),
        null=None if a.null is None or b.null is None else pick_all(a.null, b.null),
        guidance=None if a.guidance is None or b.guidance is None else pick(a.guidance, b.guidance),
    )
    return replace(new, z=pick(new.z, old.z), condition=condition)
