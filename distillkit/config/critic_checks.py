"""Checks of critics, and of where the student starts. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from distillkit.config.settings import Components, Settings
from distillkit.errors import Mistake
from distillkit.interfaces import PREVIOUS, Engine, Model


def check_critic(components: Components) -> Iterator[Mistake]:
    """A critic has what it asks, and losses that read what it gives; other losses are against something else."""
    critic, teacher = components.critic, components.teacher
    for i, loss in enumerate(components.losses):
        against = loss.options.against == "critic"
        if against and critic is None:
            yield Mistake(
                f"loss[{i}].against", 'is "critic", but there is no [critic]; add one, or compare with another'
            )
            return
        if against and loss.reads is None:
            yield Mistake(
                f"loss[{i}].against",
                f"is \"critic\", and '{loss.name}' compares with the target or the data; use a loss that is made for "
                "critics, such as 'distribution-matching'",
            )
        if not against and loss.reads is not None:
            yield Mistake(f"loss[{i}].against", f"must be \"critic\": '{loss.name}' reads what a critic says")
        if against and critic is not None and loss.reads is not None and loss.reads not in critic.gives:
            gives = " and ".join(map(repr, sorted(critic.gives))) or "nothing"
            yield Mistake(
                f"loss[{i}].type",
                f"is '{loss.name}', which reads '{loss.reads}' of the critic, and '{critic.name}' gives {gives}; use "
                "another loss or another critic",
            )
        if loss.options.balance and all(other.options.balance for other in components.losses):
            yield Mistake(f"loss[{i}].balance", "balances this loss with others, and there are none; leave it out")
    if critic is None:
        if components.source.follows == "student":
            yield Mistake(
                "source.type",
                f"'{components.source.name}' goes on where the student's jumps land, which is for critics: add a "
                "[critic], or use another source",
            )
        return
    if not any(loss.options.against == "critic" for loss in components.losses):
        yield Mistake("critic", 'is used by no loss: give one `against = "critic"`, or remove [critic]')
    if "teacher" in critic.needs and (teacher is None or teacher.follows_student != "never"):
        found = "there is none" if teacher is None else f"'{teacher.name}' follows the student"
        yield Mistake(
            "teacher",
            f"the critic '{critic.name}' compares the student with a teacher that stays, and {found}; use "
            "'frozen' with renew = \"never\"",
        )
    batches, together = components.optimizer.accumulate * critic.options.updates, critic.options.optimizer.accumulate
    if batches % together:
        yield Mistake(
            "critic.optimizer.accumulate",
            f"must divide the batches that the critic learns from in an update, {batches} (got {together}): no "
            "gradient is kept from one update to the next",
        )
    if "data" in critic.needs and components.data is None:
        yield Mistake("data", f"is required: the critic '{critic.name}' draws real samples; add a [data] table")


def check_start(components: Components) -> Iterator[Mistake]:
    """A student can start with other weights than the teacher's only where model and engine can set them."""
    student, engine, model = components.student, components.engine, components.model
    if student is None or student.start is None:
        return
    if type(engine).start_from is Engine.start_from:
        yield Mistake("student.start", f"the engine '{engine.name}' cannot start a student with other weights")
    if type(model).read_student is Model.read_student:
        yield Mistake("student.start", f"the model '{model.name}' cannot read a student's weights; leave it out")


def no_previous(key: str) -> Mistake:
    """A student that starts with the result of the phase before, where there is none."""
    return Mistake(key, 'is "previous", and there is no phase before this one; give the folder of a run')


def check_previous(phases: Sequence[Settings]) -> Iterator[Mistake]:
    """A student that starts with the result of the phase before can do so."""
    for i, phase in enumerate(phases):
        if phase.start != PREVIOUS:
            continue
        key = f"phase[{i}].student"
        if i == 0:
            yield no_previous(f"{key}.start")
            continue
        own, before = phase.adapter, phases[i - 1].adapter
        if own is None:
            continue
        if before is None:
            yield Mistake(
                f"{key}.adapter", "is one, and the phase before trains all weights; give both the adapter, or neither"
            )
            continue
        if i > 1 and phases[i - 1].start != PREVIOUS:
            yield Mistake(
                f"{key}.start",
                "is the adapter of the phase before, which is not on the first phase's network; give the phase before "
                'start = "previous" as well',
            )
        for name in ("rank", "target_modules"):
            mine, theirs = getattr(own, name), getattr(before, name)
            if mine != theirs:
                yield Mistake(
                    f"{key}.{name}",
                    f"must be that of the phase before, with whose adapter the student starts: {theirs} (got {mine})",
                )
