"""What the schedules share that fall from `start` to `stop`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from distillkit.component import Component


class FallingOptions(Component.Options):
    """
    Attributes:
        start: N of the first stage.
        stop: the smallest N; the student of a stage of N steps serves N / stride sampling steps.
    """

    start: int = Field(64, ge=2)
    stop: int = Field(2, ge=2)

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.stop > self.start:
            raise ValueError(f"stop = {self.stop} must not be above start = {self.start}")
        return self
