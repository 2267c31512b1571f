"""Pixel-space U-Nets with EDM's preconditioning: α = 1, σ from σ_max to 0 (Karras et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from distillkit.errors import Mistake
from distillkit.interfaces import Export, Sampler
from distillkit_diffusers.families import PIXEL_SCHEDULERS
from distillkit_diffusers.families.family import from_the_noise
from distillkit_diffusers.families.unet import Unet2D

if TYPE_CHECKING:
    from torch import Tensor, nn

    from distillkit.noise import EdmPath
    from distillkit_diffusers.card import Sampling


class Edm(Unet2D):
    """A `UNet2DModel` that an EDMEulerScheduler samples, unconditional or class-conditional.

    `forward` gives x̂ itself, preconditioning and all.
    """

    takes = frozenset({"network", "null_class", "guidance_input"})
    samplers: ClassVar[tuple[Sampler, ...]] = ("ddim",)

    path: EdmPath

    def check(self) -> Iterator[Mistake]:
        """A ConsistencyModelPipeline's own scheduler is another one."""
        yield from super().check()
        config = (self.folder.scheduler_config() if self.folder else {}) | self.options.scheduler
        if (found := config.get("_class_name")) not in PIXEL_SCHEDULERS:
            yield Mistake(
                "scheduler", f"is a {found}, and {self.what} has EDM's: expected one of {', '.join(PIXEL_SCHEDULERS)}"
            )

    def read_scheduler(self) -> None:
        """σ_min, σ_max and ρ as the scheduler has them."""
        from distillkit_diffusers import edm_scheduler

        self.path, self.prediction = edm_scheduler.read(self.scheduler), "sample"

    def set_grid(self, spacing: str, start: int | str | None) -> None:
        """Trailing or linspace, from σ_max."""
        self.path = self.path.with_spacing(from_the_noise(spacing, start))

    def forward(self, network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """x̂, [B, C, H, W]."""
        from distillkit_diffusers.edm_scheduler import preconditioned

        return preconditioned(network, z, self.path.sigma(t), self.scheduler, inputs)

    def write_scheduler(self, export: Export) -> tuple[Any, Sampling]:
        """An EDMEulerScheduler with the trained grid."""
        from distillkit_diffusers import edm_scheduler

        return edm_scheduler.write(self.path, self.scheduler, export.steps), edm_scheduler.describe(export.steps)

    def unconditional(self, network: nn.Module, scheduler: Any) -> Any:
        """The one stock pipeline for U-Nets that scales noise and inputs as its scheduler says."""
        from diffusers import ConsistencyModelPipeline

        return ConsistencyModelPipeline(network, scheduler)
