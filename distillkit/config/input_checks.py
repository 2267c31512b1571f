"""Checks of what the network is told besides its sample: step sizes and guidance. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from distillkit.config.plan import shares, stride
from distillkit.config.settings import Components
from distillkit.errors import Mistake
from distillkit.interfaces import Stage, Teacher


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
    """A network that is told the size of its jumps is taught some, and one that has to be told is."""
    target, told = components.target, components.model.step_input
    if target is not None and "step_size" in target.needs and not told:
        yield Mistake(
            "model.step_input",
            f"must be true: the target '{target.name}' needs a student that is told the size of its jumps",
        )
    if told and target is None and components.critic is None:
        yield Mistake(
            "model.step_input",
            "tells the network the size of the jumps that a target or a critic teaches it, and the run has neither; "
            "leave it out",
        )


def _listed(numbers: list[int]) -> str:
    return " and ".join(", ".join(map(str, numbers)).rsplit(", ", 1))


def check_levels(components: Components) -> Iterator[Mistake]:
    """Jumps of all numbers of steps that a source draws for are within a stage's, and the target can teach them."""
    source, levels, target = components.source, components.source.levels, components.target
    nested = "levels" in source.gives
    for steps in dict.fromkeys(steps for steps, _ in shares(components.schedule)):
        stage = Stage(steps, 0, stride(components, Stage(steps, 0)))
        if stage.jumps < 1 or steps % stage.stride:
            return  # which is a mistake of the schedule's
        longer = [level for level in levels if level > stage.jumps]
        odd = [level for level in levels if level not in longer and stage.jumps % level] if nested else []
        if longer or odd:
            wrong = [f"{_listed(longer)} {'is' if len(longer) == 1 else 'are'} more than"] * bool(longer)
            wrong += [f"{_listed(odd)} {'does' if len(odd) == 1 else 'do'} not divide"] * bool(odd)
            of = f"the jumps of a stage, of which there are {stage.jumps} at N = {steps}"
            out = f"leave {'it' if len(longer + odd) == 1 else 'them'} out, or change schedule or target.stride"
            yield Mistake("source.levels", f"{' and '.join(wrong)} {of}; {out}")
            return
        if target is not None and (reason := target.unteachable(stage, levels)) is not None:
            given = ", ".join(map(str, levels)) or "none"
            yield Mistake("source.levels", f"'{target.name}' cannot teach {given} at N = {steps}: {reason}")
            return


def unguidable(components: Components) -> str | None:
    """Why the teacher cannot be guided beside a student that is not; None if it can."""
    teacher, target = components.teacher, components.target
    if target is not None and "landing" in target.needs:
        return None  # the teacher is asked before the first update
    if teacher is None:
        return "needs a guided teacher beside the student, and there is none; use the teacher 'frozen'"
    if teacher.follows_student == "update":
        return (
            f"needs a guided teacher beside the student, and '{teacher.name}' follows the student; use the teacher "
            "'frozen'"
        )
    if teacher.reuses_student:
        return (
            f"needs a guided teacher, and '{teacher.name}' takes the student's prediction as its own at each jump's "
            "start; let it make its own"
        )
    return None


def check_baked(components: Components) -> Iterator[Mistake]:
    """Guidance can be baked into the student only by a guided teacher that does not have it inside already."""
    if not components.baked:
        return
    if (reason := unguidable(components)) is not None:
        yield Mistake("student.guidance", reason)
    guidance, sampled = components.source.options.guidance, components.evaluation.guidance
    if guidance in (1, (1, 1)):
        yield Mistake(
            "source.guidance",
            "is 1, which is no guidance that could be baked into the student; give a scale, or [low, high]",
        )
    if isinstance(guidance, tuple):
        if not guidance[0] <= sampled <= guidance[1]:
            yield Mistake(
                "evaluation.guidance",
                f"must be from {guidance[0]:g} to {guidance[1]:g}, the scales that the student is taught "
                f"(source.guidance; got {sampled:g})",
            )
    elif sampled != 1:
        yield Mistake(
            "evaluation.guidance",
            f"must be 1 (got {sampled:g}): the student has its guidance inside; that of the "
            "teacher's samples is evaluation.teacher_guidance",
        )
