"""The bundled teacher: a class-conditional Fashion-MNIST diffusion model."""

from __future__ import annotations

from pathlib import Path

from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.unet import Unet

FOLDER = Path(__file__).parent / "teacher"


class FashionTeacher(Unet):
    """A v-prediction U-Net for 32×32 clothes in ten classes, with a null class; trained by fashion_teacher.toml."""

    name = "fashion"

    def load(self) -> None:
        """Load the bundled weights."""
        from distillkit_diffusers import networks

        folder = PipelineFolder(FOLDER)
        self.use(networks.load(folder.network), folder.scheduler_config(), folder.null_class())

    @property
    def label(self) -> str:
        """What it is."""
        return "distillkit's bundled Fashion-MNIST teacher"
