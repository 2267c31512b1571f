"""Checks that need the loaded model: of grids, guidance, the adapter and the data."""

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
    """The mistakes in a config that can be seen once the model is loaded.

    Args:
        components: the run's; the model is loaded.
        path: the model's noise path, with the config's grid.
        plan: the stages.
        earlier: the phases before this one.
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
            f'is "{evaluation.sampler}", which the exported pipeline of {spec.label} cannot use; expected '
            f"{' or '.join(spec.samplers)}",
        )
    taught = any(phase.teacher is not None and "guidance" in phase.teacher.gives for phase in earlier)
    # Later phases start from a trained network, which an adapter fits.
    for mistake in [*_check_guidance(components, taught), *([] if earlier else _check_adapter(components))]:
        mistakes[mistake.key] = mistake
    return [*mistakes.values()]


def check_data(data: Data, model: Model) -> None:
    """Check that the data's images and classes fit the model.

    Raises:
        DistillkitError: the images have another size, or the labels are not classes of the model.
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
    """Check that the model supports the guidance scales, and that a new guidance input has a teacher."""
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
            "adds an input that the network is not trained for: train it with the preset 'guided' first, and distil "
            "the result (see [[phase]])",
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
            f"'{teacher.name}' mixes two predictions of a network without guidance, but {spec.label} takes the scale "
            "as an input; use another teacher, as the presets pd, tsd and dsdi do",
        )


def _check_adapter(components: Components) -> Iterator[Mistake]:
    """Check that the model has trained weights for the adapter to adapt."""
    spec = components.model.spec
    taken = spec.guidance_input
    if components.student is None:
        return
    if spec.untrained:
        yield Mistake("student", "adapts a trained network, but the model is a new one: remove [student]")
    elif taken is not None and taken.new:
        yield Mistake(
            "student",
            "adapts trained weights, but model.guidance_input adds a new layer: train it without [student] first, and "
            "distil the result (see [[phase]])",
        )


def _written(scales: tuple[float, ...]) -> str:
    numbers = ", ".join(f"{scale:g}" for scale in scales)
    return f"[{numbers}]" if len(scales) > 1 else numbers
