"""Converts checkpoints of other code bases to diffusers' pipelines."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from distillkit.component import Component


class Converter(Component):
    """Reads the checkpoints of one code base. No config names it: `distillkit convert --format` does."""

    @abstractmethod
    def convert(self, checkpoint: Path, config: Path, ema: bool, folder: Path) -> str:
        """Write the networks of a checkpoint as a pipeline that diffusers loads without distillkit.

        Args:
            checkpoint: a file. A pickle must be loaded with torch's `weights_only`.
            config: the code base's own file with the networks' arguments.
            ema: whether to take the running average of the weights, if the checkpoint has one.
            folder: an empty folder to write to; it must hold files afterwards.

        Returns:
            a short description of what was written.

        Raises:
            DistillkitError: a file cannot be read, or the two do not fit together.
        """
