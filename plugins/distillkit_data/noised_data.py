"""z_t made from a data set: x noised to a time of the stage's grid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from distillkit.interfaces import Data, Model, Source, Stage, Step

if TYPE_CHECKING:
    import torch

    from distillkit.noise import NoisePath


class NoisedData(Source):
    """Random images at random jumps of the grid: z_t = α_t x + σ_t ε (Algorithm 1)."""

    name = "noised-data"
    needs_data = True

    class Options(Source.Options):
        """
        Attributes:
            drop_labels: the share of samples that are shown without their class, so that the network also learns to
                do without: what classifier-free guidance needs.
        """

        drop_labels: float = Field(0.0, ge=0, le=1)

    options: Options

    def setup(self, model: Model, data: Data | None) -> None:
        """Remember where images and conditions come from."""
        assert data is not None  # the config's checks see to it
        self._model, self._data = model, data

    def start_stage(self, stage: Stage, stride: int, path: NoisePath) -> None:
        """Lay out the stage's jumps."""
        self._path = path
        # [jumps, stride + 1]: each jump's times.
        self._times = path.grid(stage.steps).unfold(0, stride + 1, stride)

    def draw(self, generator: torch.Generator) -> Step:
        """A batch of images, each at a random jump's start."""
        import torch

        batch = self.options.batch
        indices = torch.randint(len(self._data), (batch,), generator=generator)
        images, labels = self._data.batch(indices)
        data = self._model.encode(images)
        noise = torch.randn(data.shape, generator=generator)
        times = self._times[torch.randint(len(self._times), (batch,), generator=generator)].T.contiguous()
        if labels is not None and self.options.drop_labels:
            dropped = torch.rand(batch, generator=generator) < self.options.drop_labels
            labels = labels.masked_fill(dropped, -1)
        condition = self._model.condition(labels, batch, self.draw_guidance(batch, generator))
        return Step(self._path.noised(data, noise, times[0]), times, condition, data, noise)
