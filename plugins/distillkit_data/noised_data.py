"""Noisy samples z_t from a data set: images noised to a time of the stage's grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field

from distillkit.errors import Mistake
from distillkit.interfaces import Data, JumpBatch, LevelSource, Model, Stage
from distillkit.noise import NoisePath


class NoisedData(LevelSource):
    """Random images at random jumps of the grid: z_t = α_t x + σ_t ε (Algorithm 1)."""

    name = "noised-data"
    gives = frozenset({"data", "levels"})

    class Options(LevelSource.Options):
        """
        Attributes:
            times: where jumps begin. "grid": at the times at which the student samples (Algorithm 1). "uniform": at any
                time, as in training; at any integer time if the noise path has only those. A jump is as long as on
                the grid, and ends at clean data at the latest.
            lengths: how far the student jumps: "one" of the stage's jumps, or of its level's grid; or "any" number of
                the stage's jumps that is left, drawn evenly, so that a batch has jumps of all sizes.
            drop_labels: the share of samples whose class is dropped, so that the network also learns the unconditional
                prediction that classifier-free guidance needs.
        """

        times: Literal["grid", "uniform"] = "grid"
        lengths: Literal["one", "any"] = "one"
        drop_labels: float = Field(0.0, ge=0, le=1)

    options: Options

    @property
    def _any_length(self) -> bool:
        return self.options.lengths == "any"

    def check(self) -> Iterator[Mistake]:
        """A jump of any length is from one time of the grid to another, and has no level."""
        if self._any_length and (self.levels or self.options.times == "uniform"):
            other = "source.levels" if self.levels else 'source.times = "uniform"'
            yield Mistake("lengths", f'is "any", which does not go with {other}; leave one of the two out')
        yield from super().check()

    def setup(self, model: Model, data: Data | None) -> None:
        """Store the model and the data."""
        self._model, self._data = model, self.required(data, "a [data] table")

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Set the stage's jumps."""
        self._path, self._stage = path, stage
        self._grid = self.level_grid(stage, path)

    def draw(self, generator: torch.Generator) -> JumpBatch:
        """A batch of images, each at a random jump's start."""
        batch = self.global_batch
        images, labels = self._data.batch(self.shard(self._data.draw(batch, generator)))
        data = self._model.encode(images)
        noise = self.shard(torch.randn(batch, *data.shape[1:], generator=generator))
        level = torch.full((batch,), self._stage.jumps)
        if self.levels:
            level = self.draw_levels(generator, self.levels, self.level_weights)
        drawn, span = self._draw_times(level, generator)
        times = self.shard(drawn.T).T.contiguous()
        if labels is not None and self.options.drop_labels:
            dropped = self.shard(torch.rand(batch, generator=generator) < self.options.drop_labels)
            labels = labels.masked_fill(dropped, -1)
        guidance = self.draw_guidance(batch, generator)
        condition = self._model.condition(labels, len(data), None if guidance is None else self.shard(guidance))
        jumps = JumpBatch(self._path.noised(data, noise, times[0]), times, condition, data, noise)
        if self._any_length:
            return replace(jumps, step_size=self.shard(span) / self._stage.steps)
        return self.with_levels(jumps, self.shard(level))

    def _draw_times(self, level: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The times of jumps of these levels, [stride + 1, B], and the steps of the grid that each spans, [B]; for the
        batch of all processes."""
        batch, stride = self.global_batch, self._stage.stride
        # [B]: the steps of the grid that a jump spans.
        span = self._stage.steps // level
        if self.options.times == "grid":
            anywhere = torch.randint(self._stage.jumps, (batch,), generator=generator)
            if self._any_length:
                left = self._stage.jumps - anywhere
                span = span * (1 + (torch.rand(batch, generator=generator) * left).long())
                begin = anywhere * stride
            else:  # a jump begins at a multiple of what it spans
                begin = anywhere * stride // span * span
            return self._grid[begin + torch.arange(stride + 1).unsqueeze(1) * (span // stride)], span
        first, clean = self._grid[0].item(), self._grid[-1].item()
        real = self._grid.is_floating_point()
        if real:
            start = first - (first - clean) * torch.rand(batch, generator=generator, dtype=torch.float64)
        else:  # late enough that every fine step has an integer time
            start = torch.randint(int(clean) + stride, int(first) + 1, (batch,), generator=generator).double()
        end = (start - span.double() * (first - clean) / (len(self._grid) - 1)).clamp(min=clean)
        share = torch.linspace(0, 1, stride + 1, dtype=torch.float64).unsqueeze(1)
        times = start * (1 - share) + end * share
        return (times if real else times.round().long()), span
