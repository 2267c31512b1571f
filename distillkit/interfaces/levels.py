"""Sources whose batches have jumps of several sizes at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field

from distillkit.errors import DistillkitError, Mistake
from distillkit.interfaces.distillation import Source
from distillkit.interfaces.jumps import JumpBatch
from distillkit.interfaces.schedule import Stage
from distillkit.noise import NoisePath


class LevelSource(Source):
    """A source with jumps of several sizes, called levels: a jump of level n is one of a grid of n steps.

    If it gives "levels", all lie on the stage's grid of N steps, see `level_grid`: a jump of level n spans N/n of its
    steps, in `stage.stride` equal parts.
    """

    class Options(Source.Options):
        """
        Attributes:
            levels: numbers of steps: every sample has a jump of a grid of n steps, for an n that is drawn from them, so
                that a batch has jumps of all sizes. They must divide a stage's jumps, N / `target.stride`. Default:
                that number alone.
            level_weights: the samples with each of `levels`, relative to the others. Default: equally many.
        """

        levels: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
        level_weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None

    options: Options

    @property
    def levels(self) -> tuple[int, ...]:
        """The option of that name."""
        return self.options.levels or ()

    @property
    def level_weights(self) -> tuple[float, ...]:
        """The option of that name, or 1 for each level."""
        return self.options.level_weights or (1.0,) * len(self.levels)

    def check(self) -> Iterator[Mistake]:
        """Each level has a weight."""
        weights = self.options.level_weights
        if weights is not None and len(weights) != len(self.levels):
            yield Mistake(
                "level_weights",
                f"has {len(weights)} weights for the {len(self.levels)} of source.levels; give one each",
            )

    def level_grid(self, stage: Stage, path: NoisePath) -> torch.Tensor:
        """The stage's grid, [N + 1], which has the times of every level's.

        Raises:
            DistillkitError: the path's grids do not nest.
        """
        grid = path.grid(stage.steps)
        for level in self.levels:
            if not torch.equal(path.grid(level), grid[:: stage.steps // level]):
                raise DistillkitError(
                    f'grid.spacing: with "{path.spacing}", the grid of {stage.steps} steps has not all times of the '
                    f'one of {level}, which source.levels needs; use "trailing", "angle" or "karras"'
                )
        return grid

    def draw_levels(
        self, generator: torch.Generator, levels: tuple[int, ...], weights: tuple[float, ...]
    ) -> torch.Tensor:
        """A level for each sample of all processes, [global_batch], drawn with a weight for each of `levels`."""
        drawn = torch.multinomial(torch.tensor(weights), self.global_batch, replacement=True, generator=generator)
        return torch.tensor(levels)[drawn]

    def with_levels(self, jumps: JumpBatch, level: torch.Tensor) -> JumpBatch:
        """Say in a batch which levels its jumps have, [B], on the CPU; the same batch if the source has none."""
        if not self.levels:
            return jumps
        return replace(jumps, step_size=1 / level, levels=tuple(level.tolist()))
