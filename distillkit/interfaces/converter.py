"""Checkpoints of other code than diffusers', as pipelines."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from distillkit.component import Component


class Converter(Component):
    """Reads the checkpoints of one code base. No config names it: `distillkit convert --format` does."""

    @abstractmethod
    def convert(self, checkpoint: Path, config: Path, ema: bool, folder: Path) -> str:
        """Write a checkpoint's networks as a pipeline that diffusers loads without distillkit.

        Args:
            checkpoint: a file. If it is a pickle, it is opened by torch's restricted loading (weights_only) alone.
            config: a file that says, in that code base's way, how the networks are built.
            ema: whether the weights' running average is taken, where the checkpoint has one.
            folder: where to write; it is there, and empty.

        Returns:
            what was made, in a few words.

        Raises:
            DistillkitError: the files are not what they should be, or do not fit together.
        """
