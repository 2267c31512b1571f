"""Pipelines of diffusers' whose network is told how many steps it takes.

from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipe(..., num_inference_steps=4).images

Needs only torch and diffusers. A saved pipeline brings this file along, and that of its step table.
"""

import functools
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DiffusionPipeline

TIMES = ("timesteps", "sigmas")
"""The arguments of stock pipelines that are times, one for each step."""


class AnySteps(DiffusionPipeline):
    """Sets the biases, the scheduler and the times of a number of steps at each call; put before a stock class.

    Subclasses have one more part, the `StepTable` step_table. Their own scheduler, set by the user or not, is replaced.
    Times that are given with the call, timesteps or sigmas, take the place of the scheduler's: as many steps are taken.
    """

    def __init_subclass__(cls) -> None:
        stock: Any = cls.__bases__[1]

        @functools.wraps(stock.__init__)
        def __init__(self: Any, *args: Any, step_table: Any, **kwargs: Any) -> None:
            stock.__init__(self, *args, **kwargs)
            self.register_modules(step_table=step_table)

        @functools.wraps(stock.__call__)
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = inspect.signature(stock.__call__).bind(self, *args, **kwargs)
            given.apply_defaults()
            own = next((given.arguments[key] for key in TIMES if given.arguments.get(key) is not None), None)
            times = self.set_steps(given.arguments["num_inference_steps"] if own is None else len(own))
            return stock.__call__(self, *args, **(times if own is None else {}) | kwargs)

        # diffusers reads the parts of a pipeline from its signature.
        signature = inspect.signature(stock.__init__)
        table = inspect.Parameter("step_table", inspect.Parameter.KEYWORD_ONLY)
        own: Any = __init__
        own.__signature__ = signature.replace(parameters=[*signature.parameters.values(), table])
        cls.__init__, cls.__call__ = own, __call__  # type: ignore[method-assign]

    def set_steps(self, steps: int | None) -> dict[str, list[float]]:
        """Set the network and the scheduler to a number of steps; None: the one that the pipeline was made for.

        Returns:
            arguments of the call: the times that the scheduler has to be handed, if it cannot have them by itself.

        Raises:
            ValueError: the network was not made for this number.
        """
        table = self.step_table
        steps = self.config.num_inference_steps if steps is None else steps
        if steps not in table.config.steps:
            served = ", ".join(map(str, table.config.steps))
            raise ValueError(
                f"num_inference_steps, or how many times are given, must be one of {served}, which this pipeline "
                f"serves (got {steps})"
            )
        table.set_biases(getattr(self, table.config.part), steps)
        self.scheduler = table.scheduler(steps)
        taken = inspect.signature(self.__call__).parameters
        return {key: values for key, values in table.config.times.get(str(steps), {}).items() if key in taken}

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write model_index.json, and the files with the classes that diffusers lacks."""
        super().save_config(save_directory, push_to_hub, **kwargs)
        index = Path(save_directory) / self.config_name
        content = json.loads(index.read_text(encoding="utf-8"))
        for part, found in {"": self, **self.components}.items():
            # torch.compile wraps a network.
            made = type(getattr(found, "_orig_mod", found))
            lacking = [one for one in made.__mro__ if issubclass(one, diffusers.ConfigMixin) and is_lacking(one)]
            for one in lacking:
                source = Path(str(sys.modules[one.__module__].__file__))
                target = index.parent / part / source.name
                target.parent.mkdir(exist_ok=True)
                # A pipeline may be saved over the folder that it was loaded from.
                target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
            if lacking:
                content[part or "_class_name"] = [made.__module__.rpartition(".")[2], made.__name__]
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def is_lacking(found: type) -> bool:
    """Whether diffusers has no such class."""
    return found.__module__.split(".")[0] != "diffusers"


def __getattr__(name: str) -> type:
    """A pipeline of diffusers' that serves several numbers of steps, under the name of its class.

    So this file is the same in every folder: diffusers keeps all such files in one folder, by their names.
    """
    if not (name.endswith("Pipeline") and hasattr(diffusers, name)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return type(name, (AnySteps, getattr(diffusers, name)), {"__module__": __name__})
