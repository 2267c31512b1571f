"""Checks of the grids that a run needs. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from distillkit.config.plan import shares
from distillkit.config.settings import Components
from distillkit.errors import Mistake
from distillkit.noise.grids import most_steps
from distillkit.registry import whole


def wanted_steps(components: Components) -> list[tuple[str, int]]:
    """The numbers of steps of all grids that a run needs, each with the key that asks for it."""
    evaluation = components.evaluation
    wanted = [("schedule", steps) for steps, _ in shares(components.schedule)]
    wanted += [("source.levels", steps) for steps in components.source.levels]
    wanted += [("evaluation.steps", steps) for steps in evaluation.steps]
    wanted += [("evaluation.teacher_steps", steps) for steps in evaluation.teacher_steps]
    return wanted + [("evaluation.export_steps", steps) for steps in (evaluation.export_steps,) if steps is not None]


def check_grids(components: Components) -> Iterator[Mistake]:
    """The noise path has as many times as the run's grids."""
    most, start = components.model.most_steps(), components.grid.start
    if most is None:
        return
    whole(components.model, "most_steps()", most, "steps", 1)
    if isinstance(start, int):
        most = min(most, start + 1)
    faults = {key: steps for key, steps in wanted_steps(components) if steps > most}
    for key, steps in faults.items():
        yield Mistake(key, f"a grid of {steps} steps needs 1 to {most} steps: the noise path has {most} times")


def check_times(components: Components) -> Iterator[Mistake]:
    """The student's grids, and the teacher's where it has its own, have enough times."""
    stages = [("schedule", steps) for steps, _ in shares(components.schedule)]
    grids = ((components.grid.spacing, wanted_steps(components)), (components.source.spacing or "trailing", stages))
    faults = {
        key: f'a grid of {steps} steps with the spacing "{spacing}" has {most_steps(spacing)} times; take fewer steps'
        for spacing, wanted in grids
        for key, steps in wanted
        if steps > most_steps(spacing)
    }
    for key, fault in faults.items():
        yield Mistake(key, fault)


def check_spacing(components: Components) -> Iterator[Mistake]:
    """The noise path must have the run's grids, and the exported pipeline must be able to sample on them."""
    model = components.model
    # Where a critic alone teaches, the teacher is never asked about the noise at which the student begins.
    criticised = components.critic is not None and components.target is None
    if components.grid.start == "late" and components.source.spacing is None and not criticised:
        yield Mistake(
            "grid.start",
            'is "late", which is for a source whose teacher has a grid of its own (source.spacing): set it to "auto"',
        )
    # A teacher's own grids begin where there is some signal.
    own, teachers = components.grid, components.source.spacing
    grids = {"grid.spacing": (own.spacing, own.start), "source.spacing": (teachers, "late")}
    for key, (spacing, start) in grids.items():
        if spacing is not None and model.has_grid(spacing, start) is False:
            later = ', or grid.start to "late"' if model.has_grid(spacing, "late") and teachers is not None else ""
            fault = f'is "{spacing}", and the model\'s noise path has no such grids'
            yield Mistake(key, f'{fault}; set it to "trailing" or "angle"{later}')
            return
    if model.can_export(components.grid.spacing) is False:
        yield Mistake(
            "grid.spacing",
            f'is "{components.grid.spacing}", and the stock pipeline that this model is exported as cannot be given '
            'such times: its call takes none, and no scheduler\'s config in diffusers says them; set it to "trailing"',
        )
