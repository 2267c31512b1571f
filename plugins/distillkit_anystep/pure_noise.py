"""A source without data and without walks: every jump begins at pure noise."""

from __future__ import annotations

import torch

from distillkit.interfaces import Data, JumpBatch, Model, Source, Stage
from distillkit.noise import NoisePath


class PureNoise(Source):
    """Jumps from the noise at which a grid begins to any later time of it, drawn evenly: FreeFlow's
    (2511.19428, "Flow Map Distillation Without Data").

    The network is told how far each one goes: m jumps of the stage's J have the size m/J.
    """

    name = "pure-noise"

    def setup(self, model: Model, data: Data | None) -> None:
        """Remember the model whose noise and conditions are drawn."""
        self._model = model

    def start_stage(self, stage: Stage, path: NoisePath) -> None:
        """Remember the stage and its grid."""
        self._stage, self._grid, self._initial_scale = stage, path.grid(stage.steps), path.initial_scale

    def draw(self, generator: torch.Generator) -> JumpBatch:
        """New noise, and where its jumps land."""
        batch, jumps = self.global_batch, self._stage.jumps
        z = self.shard(torch.randn(batch, *self._model.spec.sample_shape, generator=generator)) * self._initial_scale
        length = self.shard(torch.randint(1, jumps + 1, (batch,), generator=generator))
        times = self._grid[length * torch.arange(self._stage.stride + 1).unsqueeze(1)]
        return JumpBatch(z, times, self.draw_condition(self._model, generator), step_size=length / jumps)
