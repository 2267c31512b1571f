"""Checks that need the loaded model: of guidance and the adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from distillkit.config import Components, teacher_scales
from distillkit.config.input_checks import no_new_input
from distillkit.errors import Mistake


def check_guidance(components: Components, earlier: Sequence[Components]) -> Iterator[Mistake]:
    """Check that the model supports the guidance scales, and that a new guidance input has a teacher."""
    spec, teacher = components.model.spec, components.teacher
    taken, can_take = spec.guidance_input, components.model.can_take_guidance_input()
    if taken is not None and any(
        phase.scales or (phase.teacher is not None and "guidance" in phase.teacher.gives) for phase in earlier
    ):
        taken = replace(taken, new=False)
    asked: dict[str, float | tuple[float, ...]] = {
        "source.guidance": components.source.options.guidance,
        "evaluation.guidance": components.evaluation.guidance,
    }
    if components.evaluation.teacher_guidance is not None:
        asked["evaluation.teacher_guidance"] = teacher_scales(components.evaluation)
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
    if components.baked and any(phase.baked and not phase.scales for phase in earlier):
        yield Mistake(
            "student.guidance",
            "guides a network that has guidance inside already, from an earlier phase; leave it out here, and "
            "source.guidance",
        )
    elif components.baked and not components.scales and taken is not None:
        yield Mistake(
            "student.guidance",
            "bakes one scale into a network that takes the scale as an input; leave it out, or give a range of scales "
            "as source.guidance",
        )
    elif taken is not None and taken.new and not mixes and not components.scales:
        yield Mistake(
            "model.guidance_input",
            "adds an input that the network is not trained for: train it with the preset 'guided' first, and distil "
            "the result (see [[phase]]); or bake a range of scales into the student (student.guidance)",
        )
    elif teacher is not None and mixes and taken is None and not (spec.supports_guidance and can_take):
        yield no_new_input(teacher)
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


def check_adapter(components: Components) -> Iterator[Mistake]:
    """Check that the model has trained weights for the adapter to adapt."""
    spec = components.model.spec
    taken = spec.guidance_input
    if components.adapter is None:
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
