"""What the families of flow matching have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from distillkit.interfaces import Export, Sampler
from distillkit_diffusers.families.family import Family, from_the_noise

if TYPE_CHECKING:
    from distillkit.noise import FlowPath
    from distillkit_diffusers.card import Sampling


class FlowFamily(Family):
    """A family with a FlowMatchEulerDiscreteScheduler; a subclass's `load` calls `read_scheduler`."""

    pipeline_spacing: ClassVar[Literal["trailing", "linspace"]]
    """The grids of its pipeline: "linspace" if it leaves them to the scheduler, "trailing" if it hands it 1 − i/S."""
    samplers: ClassVar[tuple[Sampler, ...]] = ("ddim",)

    path: FlowPath

    def read_scheduler(self, length: int | None = None) -> None:
        """The path of the scheduler, for images of `length` tokens, if its shift depends on that."""
        from distillkit_diffusers import flow_scheduler

        self.path = flow_scheduler.read(self.scheduler, self.pipeline_spacing, length)
        self.prediction = "flow"

    def set_grid(self, spacing: str, start: int | str | None) -> None:
        """Trailing or linspace, from pure noise."""
        self.path = self.path.with_spacing(from_the_noise(spacing, start))

    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """The scheduler whose grid is the trained one."""
        from distillkit_diffusers import flow_scheduler

        scheduler = flow_scheduler.write(self.path, self.scheduler, export.steps, self.pipeline_spacing)
        return scheduler, flow_scheduler.describe(self.path, export.steps, self.pipeline_spacing)
