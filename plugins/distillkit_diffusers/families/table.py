"""What the families on variance-preserving noise paths have in common: most of diffusers' schedulers are theirs."""

from __future__ import annotations

from typing import Any

from distillkit.interfaces import Export, Sampler
from distillkit.noise import TablePath
from distillkit_diffusers import schedulers
from distillkit_diffusers.card import Sampling
from distillkit_diffusers.families.family import Family


class TableFamily(Family):
    """A family whose scheduler has betas; a subclass's `load` calls `read_scheduler`."""

    path: TablePath

    def read_scheduler(self) -> None:
        """A table of ᾱ, or the cosine path in its place."""

        cosine = self.options.cosine
        if cosine is not None:
            self.scheduler = schedulers.with_cosine(self.scheduler, cosine)
        self.path, self.prediction = schedulers.read(self.scheduler, cosine)

    def set_grid(self, spacing: str, start: int | str | None) -> None:
        """Set spacing and start of the path's grids; "auto" looks at what the network predicts."""

        self.path = schedulers.with_grid(self.path, self.prediction, spacing, start)

    @property
    def sampler(self) -> Sampler:
        """Consistency where the scheduler is LCM's."""

        return schedulers.sampler(self.scheduler)

    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """The scheduler whose grid is the trained one."""

        scheduler = schedulers.write(self.path, self.prediction, self.scheduler, export.steps, export.sampler)
        return scheduler, schedulers.describe(self.path, export.steps, export.sampler)
