"""What takes the loaded model to check: its grids, its guidance, its adapter, its data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from distillkit.config import Components
from distillkit.errors import DistillkitError, GridError, Mistake
from distillkit.interfaces import Data, Model, Stage
from distillkit.noise import NoisePath

NAMED = 10
"""Classes that a message names, if there are more."""


def check_model(
    components: Components, path: NoisePath, plan: Sequence[Stage], earlier: Sequence[Components] = ()
) -> list[Mistake]:
    """The mistakes in a config that only the loaded model shows.

    Args:
        components: with the loaded model.
        path: its noise path, with the grids that they ask for.
        plan: their stages.
        earlier: the phases before.
    """
    spec, evaluation = components.model.spec, components.evaluation
    wanted = [("schedule", stage.steps) for stage in plan]
    wanted += [("evaluation.steps", steps) for steps in evaluation.steps]
    wanted += [("evaluation.teacher_steps", steps) for steps in evaluation.teacher_steps]
    if evaluation.export_steps is not None:
        wanted.append(("evaluation.export_steps", evaluation.export_steps))
    mistakes = {}
    for key, steps in wanted:
        try:
            path.grid(steps)
        except GridError as error:
            mistakes[key] = Mistake(key, str(error))
    if evaluation.sampler not in spec.samplers:
        mistakes["evaluation.sampler"] = Mistake(
            "evaluation.sampler",
            f'is "{evaluation.sampler}", which the exported pipeline of {spec.label} could not do; expected '
            f"{' or '.join(spec.samplers)}",
        )
    taught = any(phase.teacher is not None and "guidance" in phase.teacher.gives for phase in earlier)
    # What an earlier phase leaves is no new network.
    for mistake in [*_check_guidance(components, taught), *([] if earlier else _check_adapter(components))]:
        mistakes[mistake.key] = mistake
    return [*mistakes.values()]


def check_data(data: Data, model: Model) -> None:
    """The images must be as large as the model's, and their labels classes that it is conditioned on.

    Raises:
        DistillkitError: they are not.
    """
    data.check_shape(model)
    if model.spec.classes is None:
        return
    if data.classes is None and not model.spec.supports_guidance:
        raise DistillkitError(
            f"data: the images of '{data.name}' have no labels, and the model is conditioned on {model.spec.classes} "
            'classes, none of which means "no class"; give labelled images, or name that class in model.null_class'
        )
    if data.classes is not None and data.classes > model.spec.classes:
        names = data.class_names or ()
        some = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        raise DistillkitError(
            f"data: the images of '{data.name}' have {data.classes} classes{f' ({some})' if some else ''}, and the "
            f"model {model.spec.classes}"
        )


def _check_guidance(components: Components, taught: bool) -> Iterator[Mistake]:
    """Scales that the model can do, and a teacher for what its network does not know yet."""
    spec, teacher = components.model.spec, components.teacher
    taken = spec.guidance_input
    if taken is not None and taught:
        taken = replace(taken, new=False)
    asked = {
        "source.guidance": components.source.options.guidance,
        "evaluation.guidance": components.evaluation.guidance,
    }
    for key, guidance in asked.items():
        scales = guidance if isinstance(guidance, tuple) else (guidance,)
        if taken is not None and not (taken.low <= min(scales) and max(scales) <= taken.high):
            yield Mistake(
                key,
                f"must lie in [{taken.low:g}, {taken.high:g}], the scales that the network takes as an input (got "
                f"{_written(scales)})",
            )
        elif not spec.supports_guidance and set(scales) != {1}:
            yield Mistake(key, "must be 1: the model has no null condition for guidance to compare with")
        elif taken is None and min(scales) < 1:
            yield Mistake(
                key,
                f"must be 1 (none) or more, as diffusers' pipelines guide above 1 only (got {_written(scales)})",
            )
    mixes = teacher is not None and "guidance" in teacher.gives
    if taken is not None and taken.new and not mixes:
        yield Mistake(
            "model.guidance_input",
            "is new to the network, which has to be taught what it means first: begin with the preset 'guided', "
            "and distil its result (see [[phase]])",
        )
    elif teacher is not None and mixes and taken is None:
        yield Mistake(
            "model.guidance_input",
            f"is required: the teacher '{teacher.name}' teaches the network to take the guidance scale as an input; "
            "give the lowest and the highest scale, as in [1.0, 3.0]",
        )
    elif teacher is not None and mixes and taken is not None and not taken.new:
        yield Mistake(
            "teacher.type",
            f"'{teacher.name}' mixes two predictions of a network without guidance, and {spec.label} takes the scale "
            "as an input and guides by itself; use a teacher that does not, as the presets pd, tsd and dsdi do",
        )


def _check_adapter(components: Components) -> Iterator[Mistake]:
    """What an adapter stands beside must be there for others, too."""
    spec = components.model.spec
    taken = spec.guidance_input
    if components.student is None:
        return
    if spec.untrained:
        yield Mistake("student", "adapts a network that has been trained, and the model is a new one: leave it out")
    elif taken is not None and taken.new:
        yield Mistake(
            "student",
            "adapts what the network has, and model.guidance_input gives it a new layer: teach that one without "
            "[student], and distil the result (see [[phase]])",
        )


def _written(scales: tuple[float, ...]) -> str:
    numbers = ", ".join(f"{scale:g}" for scale in scales)
    return f"[{numbers}]" if len(scales) > 1 else numbers
