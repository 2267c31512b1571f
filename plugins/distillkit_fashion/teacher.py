"""The bundled teacher: a class-conditional Fashion-MNIST diffusion model."""

from __future__ import annotations

from pathlib import Path

from distillkit_diffusers.families.unet import Pixel
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.model import DiffusersModel, FamilyModel

FOLDER = Path(__file__).parent / "teacher"


class FashionTeacher(FamilyModel):
    """A v-prediction U-Net for 32×32 clothes in ten classes, with a null class; trained by fashion_teacher.toml."""

    name = "fashion"

    def find_family(self) -> Pixel:
        """The family of the bundled folder."""
        given = self.options.model_dump(exclude_unset=True)
        return Pixel(DiffusersModel.Options(path=FOLDER, **given), PipelineFolder(FOLDER))

    @property
    def label(self) -> str:
        """A description, as the folder is part of the package."""
        return "distillkit's bundled Fashion-MNIST teacher"
