"""Checks that the tables of a config fit together. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from distillkit.config.critic_checks import check_critic, check_start
from distillkit.config.grid_checks import check_grids, check_spacing, check_times
from distillkit.config.input_checks import check_baked, check_guidance_input, check_levels, check_step_input
from distillkit.config.plan import make_plan, shares, stride, teacher_evaluations
from distillkit.config.score_checks import check_best, check_scores
from distillkit.config.settings import Components, scores_taken, wanted_score, watched
from distillkit.errors import Mistake
from distillkit.interfaces import Engine, Source, Stage
from distillkit.registry import PartError, Registry


def check_together(components: Components, wrong: Collection[str], registry: Registry) -> Iterator[Mistake]:
    """Yield the mistakes that involve more than one table.

    Args:
        components: the components that the tables describe.
        wrong: the tables that have mistakes of their own. Checks that read one of them are left out.
        registry: the installed components, to suggest others.
    """
    faults: list[Mistake] = []
    for check, needs in CHECKS.items():
        if not needs.intersection(wrong):
            try:
                yield from check(components)
            except PartError as error:
                faults.append(Mistake(error.kind, str(error)))
    # Several checks may ask the same part.
    yield from dict.fromkeys(faults)
    if not {"source", "target", "loss"}.intersection(wrong):
        yield from _needs(components, registry)


def _targets(components: Components) -> Iterator[Mistake]:
    against_target = any(loss.options.against == "target" for loss in components.losses)
    judged = components.critic is not None
    if components.target is not None and components.teacher is None:
        yield Mistake("teacher", f"is required: the target '{components.target.name}' asks it for predictions")
    if components.target is None and components.teacher is not None and not judged:
        yield Mistake(
            "teacher", f"'{components.teacher.name}' is not used without a target: add a [target], or remove [teacher]"
        )
    if components.target is not None and not against_target:
        yield Mistake("loss", 'no loss is against the target; give one `against = "target"`, or remove [target]')
    if components.target is None:
        for i, loss in enumerate(components.losses):
            if loss.options.against == "target":
                yield Mistake(f"loss[{i}].against", 'is "target", but there is no [target]; set it to "data"')
        if "data" not in components.source.gives and not judged and components.source.follows == "target":
            yield Mistake(
                "target", f"is required: the source '{components.source.name}' continues where the target lands"
            )


NOT_GIVEN = {
    "data": "{part} needs a source with data; '{source}' has none: use {others}",
    "landing": "'{source}' does not know where the teacher lands, which the target {part} needs; use {others}, "
    "or another target",
    "walk": "the jumps of '{source}' do not follow one another, and the target {part} continues from each jump to the "
    "next; use {others}",
}
"""The message for a source that does not give what a target or a loss needs."""


def _needs(components: Components, registry: Registry) -> Iterator[Mistake]:
    """The source must give what the target and the losses need of a batch of jumps."""
    source, target = components.source, components.target
    against_data = [i for i, loss in enumerate(components.losses) if loss.options.against == "data"]
    needs = [(f"loss[{i}].against", '"data"', "data") for i in against_data]
    if target is not None:
        needs += [("target", f"'{target.name}'", need) for need in sorted(target.needs - {"step_size"})]
    for key, part, need in needs:
        if need not in source.gives:
            message = NOT_GIVEN.get(need, "'{source}' does not give '{need}', which {part} needs; use {others}")
            others = " or ".join(f"'{name}'" for name in _sources_with(need, registry)) or "another one"
            yield Mistake(
                key if need == "data" else "source.type",
                message.format(part=part, need=need, source=source.name, others=others),
            )


def _sources_with(need: str, registry: Registry) -> list[str]:
    sources = {registry.name_of("source", source): source for source in registry.classes("source")}
    return sorted(name for name, one in sources.items() if issubclass(one, Source) and need in one.gives)


def _stages(components: Components) -> Iterator[Mistake]:
    schedule = components.schedule
    given = ", ".join(f"{key} = {value}" for key, value in components.tables["schedule"].items() if key != "type")
    what = f"'{schedule.name}' with {given}" if given else f"'{schedule.name}'"
    pairs = shares(schedule)
    if not pairs:
        yield Mistake("schedule", f"{what} has no stages")
        return
    if any(steps < 1 or share < 0 for steps, share in pairs) or not sum(share for _, share in pairs):
        yield Mistake(
            "schedule", f"{what} needs stages of at least 1 step, with shares that are not negative and not all 0"
        )
        return
    target, teacher = components.target, components.teacher
    for steps, _ in pairs:
        stage = Stage(steps, 0)
        every = stride(components, stage)
        if (
            target is not None
            and teacher is not None
            and "landing" not in target.needs
            and not teacher_evaluations(components, stage)
        ):
            yield Mistake(
                "target",
                f"'{target.name}' in jumps of one step asks the teacher '{teacher.name}' for nothing but the student's "
                "own prediction; make target.stride at least 2, or use another teacher",
            )
            return
        if steps % every:
            yield Mistake(
                "schedule",
                f"{what} has a stage of {steps} steps, which the target's jumps of {every} do not divide; "
                f"make the steps of every stage a multiple of {every}",
            )
            return


def _plan(components: Components) -> Iterator[Mistake]:
    if not any(_stages(components)):
        make_plan(components)  # raises if a part is wrong
    return iter(())


def _data(components: Components) -> Iterator[Mistake]:
    source = components.source
    if "data" in source.gives and components.data is None:
        yield Mistake("data", f"is required: the source '{source.name}' draws from a data set; add a [data] table")


def _moments(components: Components) -> Iterator[Mistake]:
    engine = components.engine
    if components.optimizer.moments == "stage" and type(engine).restart_moments is Engine.restart_moments:
        yield Mistake("optimizer.moments", f'is "stage", and the engine \'{engine.name}\' keeps them: set it to "run"')


def _sampler(components: Components) -> Iterator[Mistake]:
    if components.evaluation.sampler == "consistency" and components.grid.spacing != "trailing":
        yield Mistake(
            "grid.spacing",
            f'is "{components.grid.spacing}", but consistency sampling starts at the noise and visits the times of '
            '"trailing", as diffusers\' LCMScheduler does: set it to "trailing", or evaluation.sampler to "ddim"',
        )


def _watched(components: Components) -> Iterator[Mistake]:
    schedule = components.schedule
    if any(_stages(components)):
        return
    for steps, _ in schedule.shares():
        jumps = steps // stride(components, Stage(steps, 0))
        wanted = wanted_score(components, jumps)
        if wanted is None:
            continue
        if not components.evaluation.every:
            yield Mistake("evaluation.every", f"must be at least 1: the schedule '{schedule.name}' watches a score")
            return
        if watched(components, jumps) is None:
            yield Mistake(
                "schedule",
                f"'{schedule.name}' watches the score '{wanted}', which the run does not take; it takes: "
                f"{', '.join(scores_taken(components)) or 'none'} (see evaluation.steps and [[metric]])",
            )
            return


CHECKS: dict[Callable[[Components], Iterator[Mistake]], set[str]] = {
    _targets: {"loss", "target", "teacher", "source"},
    _stages: {"schedule", "target", "teacher"},
    check_critic: {"loss", "critic", "teacher", "data", "optimizer", "source"},
    check_start: {"student", "engine", "model"},
    check_levels: {"schedule", "target", "teacher", "source"},
    _plan: {"schedule", "target", "teacher", "source", "run", "optimizer"},
    check_grids: {"model", "schedule", "grid", "source", "evaluation"},
    check_times: {"schedule", "grid", "source", "evaluation"},
    _watched: {"schedule", "target", "evaluation", "features", "metric"},
    check_best: {"evaluation", "features", "metric"},
    _data: {"source", "data"},
    _sampler: {"grid", "evaluation"},
    _moments: {"optimizer", "engine"},
    check_guidance_input: {"model", "teacher"},
    check_step_input: {"model", "target"},
    check_baked: {"student", "teacher", "target", "source", "evaluation"},
    check_spacing: {"model", "grid", "source", "target", "critic"},
    check_scores: {"metric", "features", "evaluation", "data"},
}
