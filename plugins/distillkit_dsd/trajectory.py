"""The source of self-distillation: samples that walk from noise to data (Algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch

from distillkit import distributed
from distillkit.errors import Mistake
from distillkit.interfaces import Data, JumpBatch, LevelSource, Model, Stage
from distillkit.noise import Condition, NoisePath


class Trajectory(LevelSource):
    """Walks from noise to data, a jump a draw, and begins again (Algorithm 2).

    If the next state of a walk is not finite, the walk restarts from its own noise. It takes only the jumps that are
    left of it, so that the samples of a batch stay in step.

    All samples of a batch walk in step; staggered, they stand at different positions, so that one update sees many
    noise levels (the paper names samples that are not independent as its limitation).

    With levels, each walk is on the grid of a level that is drawn when it begins, and samples are staggered. A walk of
    level n takes n draws, so levels are drawn 1/n as often as their samples are wanted.
    """

    name = "trajectory"
    gives = frozenset({"walk", "levels"})

    class Options(LevelSource.Options):
        """
        Attributes:
            staggered: spread the batch over the trajectory, as `levels` and `lengths` do in any case. Sample i's first
                walk of a stage is cut short by the share i/B of its jumps, which costs no evaluation.
            lengths: how far the student jumps: "one" of the stage's jumps, or of its level's grid; or "any" number of
                the stage's jumps that is left of a walk, drawn evenly, so that a batch has jumps of all sizes.
        """

        staggered: bool = False
        lengths: Literal["one", "any"] = "one"

    options: Options

    @property
    def sequential(self) -> bool:
        """Whether the batch walks in step."""
        return not (self.options.staggered or self.levels or self._any_length)

    @property
    def _any_length(self) -> bool:
        return self.options.lengths == "any"

    def check(self) -> Iterator[Mistake]:
        """A jump of any length has no level."""
        if self.levels and self._any_length:
            yield Mistake("lengths", 'is "any", which does not go with source.levels; leave one of the two out')
        yield from super().check()

    def setup(self, model: Model, data: Data | None) -> None:
        """Remember the model whose noise and conditions are drawn."""
        self._model = model

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Lay out the stage's jumps; all samples are about to begin a walk."""
        self._grid, self._initial_scale = self.level_grid(stage, path), path.initial_scale
        self._steps, self._stride = stage.steps, stage.stride
        # Where the samples of all processes stand, as new noise is drawn for all when any has arrived: the jumps of
        # their walks, of which there are none yet, those that they have made, and those that are left.
        self._level = torch.zeros(self.global_batch, dtype=torch.long)
        self._position = torch.zeros_like(self._level)
        self._left = torch.zeros_like(self._level)
        # This process's samples: which of all they are, their z and conditions, of which there are none yet.
        self._mine = self.shard(torch.arange(self.global_batch))
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
        device = self._z.device
        jump = self._on(device, self._position) - self._behind
        level = self._on(device, self._level)
        # [B] of all processes: how many of its walk's jumps a sample makes at once.
        drawn = torch.ones_like(self._left)
        if self._any_length:
            drawn += (torch.rand(len(drawn), generator=generator) * self._left).long()
        length = self._on(device, drawn)
        # [B]: the steps of the stage's grid that one of them spans. They are divided into parts of equal length.
        span = self._steps // level
        part = torch.arange(self._stride + 1, device=device).unsqueeze(1) * (span // self._stride * length)
        self._grid = self._grid.to(device)
        times = self._grid[jump * span + part]
        self._position = torch.where(self._left == drawn, 0, self._position + drawn)
        self._left -= drawn
        if not (self.levels or self._any_length):
            return JumpBatch(self._z, times, self._condition)
        levels = tuple(self._level[self._mine].tolist()) if self.levels else ()
        return JumpBatch(self._z, times, self._condition, step_size=length / level, levels=levels)

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
        level, first = self._draw_levels(generator), not self._level.any()
        cut = torch.arange(len(over)) * level // len(over) if first and not self.sequential else 0
        self._level = torch.where(over, level, self._level)
        self._position[over] = 0
        self._left = torch.where(over, level - cut, self._left)

    def _draw_levels(self, generator: torch.Generator) -> torch.Tensor:
        """The number of jumps of new walks, [B] of all processes."""
        if not self.levels:
            return torch.full_like(self._level, self._steps // self._stride)
        weights = self.level_weights
        # The first walks, which are cut short as if they had begun before, count by their samples.
        if self._level.any():
            weights = tuple(weight / level for weight, level in zip(weights, self.levels, strict=True))
        return self.draw_levels(generator, self.levels, weights)

    def advance(self, z_next: torch.Tensor) -> None:
        """Go on from where the fine steps landed, or restart a walk whose state is not finite."""
        device, finite = z_next.device, z_next.isfinite().flatten(1).all(1)
        if self._z.device != device:
            self._condition = self._condition.to(device)
        self._z = torch.where(finite.view(-1, 1, 1, 1), z_next, self._start.to(device))
        self._behind = torch.where(finite, self._behind.to(device), self._on(device, self._position))

    def _on(self, device: torch.device, values: torch.Tensor) -> torch.Tensor:
        """Those of this process's samples, of [B] of all. They are not pinned memory, so the copy has read them when
        this returns."""
        return values[self._mine].to(device, non_blocking=True)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        """Where every sample stands."""
        mine = {"z": self._z, "start": self._start, "behind": self._behind} | self._condition.tensors()
        return {"level": self._level, "position": self._position, "left": self._left} | {
            key: distributed.all_gather(value) for key, value in mine.items()
        }

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from there."""
        self._level, self._position, self._left = (state[key] for key in ("level", "position", "left"))
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
