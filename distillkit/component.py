"""The base class of all components: a class with a name and strict options."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from distillkit.errors import DistillkitError, Mistake

T = TypeVar("T")


class StrictModel(BaseModel):
    """A pydantic model of values that a user writes. Unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Component(ABC):
    """A component of a run, which a config selects by `type`.

    A subclass sets `name` and defines its `Options`, which the other keys of the config's table fill:

    ```python
    class Constant(Schedule):
        name = "constant"

        class Options(Schedule.Options):
            steps: int = 64

        options: Options
    ```

    The constructor only stores the options and needs no torch, so that `distillkit check` can create every component.
    """

    name: ClassVar[str]
    default: ClassVar[bool] = False
    """Whether this component is used if a config names none of its kind. distillkit's own come first."""
    command_options: ClassVar[Mapping[str, str]] = {}
    """Optional. Which of its options commands set: what they set -> the name of the option.

    They set a model's "path", "prompts" (a text file) and "prompt_list" (which that file replaces); an engine's
    "device", "precision" ("auto") and "recompute" (whether the backward pass recomputes activations); a data set's
    "folder" (of pictures), "size" (in pixels) and "channels"; and a tracker's "store" (a URI).
    """

    class Options(StrictModel):
        """The keys of the component's table. Unknown keys are errors."""

    options: Options

    def __init__(self, options: Options) -> None:
        self.options = options

    def check(self) -> Iterator[Mistake]:
        """Yield the mistakes in the options that their types do not catch, such as a missing file.

        The key of a mistake is the name of the option. Must not use torch.
        """
        return iter(())

    def required(self, value: T | None, what: str) -> T:
        """Something optional that this component cannot do without. A checked config and its parts give it.

        Raises:
            DistillkitError: it is None.
        """
        if value is None:
            raise DistillkitError(f"'{self.name}' needs {what}, and was given none")
        return value
