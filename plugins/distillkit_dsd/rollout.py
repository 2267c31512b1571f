"""The student's own samples, for critics."""

from __future__ import annotations

import torch

from distillkit.errors import DistillkitError
from distillkit.interfaces import JumpBatch, LevelSource, Stage
from distillkit.noise import NoisePath
from distillkit_dsd.walks import Walks


class Rollout(Walks):
    """Samples that the student makes in as many steps as `levels` says, a number drawn for each; data-free.

    A draw is one jump of each sample, so that the gradient is in one jump of a walk, and each of its jumps has one when
    its turn comes. The next jump begins where the student's landed: a walk costs no evaluations but those that the
    student learns from, and its states are those of the student as it was, one update ago for each jump. The levels'
    grids are those on which the student is sampled; they need not nest.

    A target may teach the same jumps. The walks follow the student in any case.
    """

    name = "rollout"
    gives = frozenset({"walk"})
    follows = "student"

    class Options(LevelSource.Options):
        """
        Attributes:
            levels: numbers of steps: every walk has as many jumps as one of them says, which is drawn when it begins.
                At most as many as the stage's jumps, N / `target.stride`. Default: that number alone.
        """

    options: Options

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Lay out the jumps of every level.

        Raises:
            DistillkitError: the path's grids do not nest, and a target's jumps have parts.
        """
        super().start_stage(stage, path)
        levels = self.levels or (stage.jumps,)
        grids = [path.grid(level * stage.stride) for level in levels]
        for level, grid in zip(levels, grids, strict=True):
            if not torch.equal(path.grid(level), grid[:: stage.stride]):
                raise DistillkitError(
                    f'grid.spacing: with "{path.spacing}", the grid of {level * stage.stride} steps has not all times '
                    f'of the one of {level}, whose jumps have {stage.stride} parts (target.stride); use "trailing", '
                    '"angle" or "karras"'
                )
        # The jumps of all levels, one level after the other: their times, [jumps, S + 1]; by level, the first of them.
        self._jumps = torch.cat([grid.unfold(0, stage.stride + 1, stage.stride) for grid in grids])
        self._first = torch.zeros(max(levels) + 1, dtype=torch.long)
        self._first[list(levels)] = torch.tensor([0, *levels[:-1]]).cumsum(0)

    def draw(self, generator: torch.Generator) -> JumpBatch:
        """The jumps at which the samples stand; those whose walk is over begin a new one."""
        self.begin_walks(generator)
        jump, level = self.jump_and_level()
        self._jumps, self._first = self._jumps.to(level.device), self._first.to(level.device)
        times = self._jumps[self._first[level] + jump].T
        self.move(torch.ones_like(self._left))
        return self.with_levels(JumpBatch(self._z, times, self._condition), self._level[self._mine])
