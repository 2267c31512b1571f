"""The base of everything a plugin can contribute: a named class with strict options."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from distillkit.errors import Mistake


class StrictModel(BaseModel):
    """Values that a user writes: an unknown key is an error, and so is an infinite number."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Component(ABC):
    """A part of a distillation that a config names by its `type`.

    A subclass sets `name` and nests its own `Options`; the rest of the config's table fills them:

    ```python
    class Constant(Schedule):
        name = "constant"

        class Options(Schedule.Options):
            steps: int = 64

        options: Options
    ```

    Making a component is cheap and needs no torch, so that `distillkit check` can make all of them. Import torch
    inside the methods that use it.
    """

    name: ClassVar[str]

    class Options(StrictModel):
        """The keys that the component's table takes. Unknown keys are errors."""

    options: Options

    def __init__(self, options: Options) -> None:
        self.options = options

    def check(self) -> Iterator[Mistake]:
        """Yield what is wrong with the options beyond their types (a file that is missing, say).

        A mistake's key is an option's name. Must not import torch.
        """
        return iter(())
