"""Checks of what the network is told besides its sample: step sizes and guidance. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from distillkit.config.settings import Components
from distillkit.errors import Mistake
from distillkit.interfaces import Teacher


def check_guidance_input(components: Components) -> Iterator[Mistake]:
    """A new input for the guidance scale has a network that takes it."""
    teacher = components.teacher
    if teacher is not None and "guidance" in teacher.gives and components.model.can_take_guidance_input() is False:
        yield no_new_input(teacher)


def no_new_input(teacher: Teacher) -> Mistake:
    """A teacher that teaches a new input, for a model that cannot be given one."""
    return Mistake(
        "teacher.type",
        f"'{teacher.name}' teaches a network a new input, the guidance scale, which this model cannot be given; use "
        "another method, as the presets pd, tsd and dsdi do",
    )


def check_step_input(components: Components) -> Iterator[Mistake]:
    """A network that is told the size of its jumps is taught some."""
    if components.model.step_input and components.target is None:
        yield Mistake(
            "model.step_input",
            "tells the network the size of the jumps that a target teaches it, and the run has no target; leave it out",
        )


def can_bake(components: Components) -> bool:
    """Whether the teacher can be guided beside a student that is not: see `check_baked`."""
    teacher, target = components.teacher, components.target
    if teacher is None or target is None:
        return False
    return "landing" in target.needs or not (teacher.follows_student == "update" or teacher.reuses_student)


def check_baked(components: Components) -> Iterator[Mistake]:
    """Guidance can be baked into the student only by a guided teacher that does not have it inside already."""
    if not components.baked:
        return
    teacher, target, guided = components.teacher, components.target, components.source.options.guidance
    if target is not None and "landing" in target.needs:
        pass  # the teacher was asked before the first update
    elif teacher is None or teacher.follows_student == "update":
        which = "there is none" if teacher is None else f"'{teacher.name}' follows the student"
        yield Mistake(
            "student.guidance", f"needs a guided teacher beside the student, and {which}; use the teacher 'frozen'"
        )
    elif teacher.reuses_student:
        yield Mistake(
            "student.guidance",
            f"needs a guided teacher, and '{teacher.name}' takes the student's prediction as its own at each jump's "
            "start; let it make its own",
        )
    if guided == 1:
        yield Mistake(
            "source.guidance", "is 1, which is no guidance that could be baked into the student; give a scale"
        )
    if components.evaluation.guidance != 1:
        yield Mistake(
            "evaluation.guidance",
            f"must be 1 (got {components.evaluation.guidance:g}): the student has its guidance inside; that of the "
            "teacher's samples is evaluation.teacher_guidance",
        )
