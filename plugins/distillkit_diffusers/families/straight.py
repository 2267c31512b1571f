"""What the families of flow matching have in common."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from distillkit.errors import DistillkitError
from distillkit.interfaces import Export, Sampler
from distillkit.noise import FlowPath
from distillkit_diffusers import flow_scheduler
from distillkit_diffusers.card import Sampling
from distillkit_diffusers.families.family import Family, from_the_noise


class FlowFamily(Family):
    """A family with a FlowMatchEulerDiscreteScheduler; a subclass's `load` calls `read_scheduler`."""

    pipeline_spacing: ClassVar[Literal["trailing", "linspace"]]
    """The grids of its pipeline: "linspace" if it leaves them to the scheduler, "trailing" if it hands it 1 − i/S."""
    samplers: ClassVar[tuple[Sampler, ...]] = ("ddim",)

    path: FlowPath

    def read_scheduler(self, length: int | None = None) -> None:
        """The path of the scheduler, for images of `length` tokens, if its shift depends on that."""

        self.path = flow_scheduler.read(self.scheduler, self.pipeline_spacing, length)
        self.prediction = "flow"

    def set_grid(self, spacing: str, start: int | str | None) -> None:
        """Trailing or linspace, from pure noise."""
        wanted = from_the_noise(spacing, start)
        if wanted != "trailing" == self.pipeline_spacing:
            raise DistillkitError(
                f'grid.spacing: is "{wanted}", and {self.what} tells its scheduler "trailing" grids; set it to that'
            )
        self.path = self.path.with_spacing(wanted)

    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """The scheduler whose grid is the trained one."""

        scheduler = flow_scheduler.write(self.path, self.scheduler, export.steps, self.pipeline_spacing)
        return scheduler, flow_scheduler.describe(self.path, export.steps, self.pipeline_spacing)
