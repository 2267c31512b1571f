"""The bundled teacher, a class-conditional Fashion-MNIST model, and the features in which its samples are scored."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from distillkit_diffusers.families.unet import Pixel
from distillkit_diffusers.folder import PipelineFolder
from distillkit_diffusers.model import DiffusersModel, FamilyModel

from distillkit.interfaces import Features, FeatureStatistics

FOLDER = Path(__file__).parent / "teacher"


class FashionTeacher(FamilyModel):
    """A v-prediction U-Net for 32×32 images in ten classes and a null class; configs/fashion_teacher.toml trains it."""

    name = "fashion"

    def find_family(self) -> Pixel:
        """The family of the bundled folder."""
        given = self.options.model_dump(exclude_unset=True)
        return Pixel(DiffusersModel.Options(path=FOLDER, **given), PipelineFolder(FOLDER))

    @property
    def label(self) -> str:
        """A description, as the folder is part of the package."""
        return "distillkit's bundled Fashion-MNIST teacher"


class Fashion(Features):
    """128 features of a small classifier of Fashion-MNIST, with the statistics of its 60 000 training images.

    The scores are called fd-fashion, kd-fashion and is-fashion, because they are not FID, KID and Inception Score.
    """

    name = "fashion"
    metric_suffix = "-fashion"

    def setup(self, device: torch.device) -> None:
        """Load the network that comes with the package."""
        from distillkit_fashion.classifier import PREPROCESSING, WEIGHTS, load_classifier

        self._network = load_classifier().to(device)
        self._hash = hashlib.sha256(WEIGHTS.read_bytes() + PREPROCESSING.encode()).hexdigest()[:8]

    def extract(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """uint8 images [B, 1 or 3, H, W], 28 or 32 px -> features [B, 128] and class logits [B, 10].

        Raises:
            DistillkitError: the images have another size.
        """
        from distillkit_fashion.classifier import prepare

        with torch.no_grad():
            features, logits = self._network(prepare(images))
        return features, logits

    @property
    def hash(self) -> str:
        """The hash of the weights file and the preprocessing; known after `setup`."""
        return self._hash

    def bundled_reference(self) -> FeatureStatistics:
        """The 60 000 training images, padded to 32×32; the features of 2000 of them are kept."""
        from distillkit_fashion.classifier import load_reference

        return load_reference()

    @property
    def has_bundled_reference(self) -> bool:
        """True: it comes with the package."""
        return True
