"""The source of self-distillation: samples that walk from noise to data (Algorithm 2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch

from distillkit.errors import Mistake
from distillkit.interfaces import JumpBatch, LevelSource, Stage
from distillkit.noise import NoisePath
from distillkit_dsd.walks import Walks


class Trajectory(Walks):
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

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Lay out the stage's jumps; all samples are about to begin a walk."""
        super().start_stage(stage, path)
        self._grid = self.level_grid(stage, path)

    def draw(self, generator: torch.Generator) -> JumpBatch:
        """The jumps at which the samples stand; those whose walk is over begin a new one."""
        self.begin_walks(generator)
        device = self._z.device
        jump, level = self.jump_and_level()
        # [B] of all processes: how many of its walk's jumps a sample makes at once.
        drawn = torch.ones_like(self._left)
        if self._any_length:
            drawn += (torch.rand(len(drawn), generator=generator) * self._left).long()
        length = self.on_device(device, drawn)
        # [B]: the steps of the stage's grid that one of them spans. They are divided into parts of equal length.
        span = self._steps // level
        part = torch.arange(self._stride + 1, device=device).unsqueeze(1) * (span // self._stride * length)
        self._grid = self._grid.to(device)
        times = self._grid[jump * span + part]
        self.move(drawn)
        if not (self.levels or self._any_length):
            return JumpBatch(self._z, times, self._condition)
        levels = tuple(self._level[self._mine].tolist()) if self.levels else ()
        return JumpBatch(self._z, times, self._condition, step_size=length / level, levels=levels)
