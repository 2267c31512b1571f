"""From settings to parts that are ready to run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from distillkit.config import Settings, make_plan
from distillkit.errors import ConfigError, DistillkitError, GridError, Mistake
from distillkit.interfaces import Data, Model, PrecomputingSource, Stage
from distillkit.noise import NoisePath, Predictor
from distillkit.sampling import generator


@dataclass(frozen=True)
class Parts:
    """What the loop works with.

    Attributes:
        settings: the config; its model is loaded, its source, teacher and target are set up.
        student: the network that is trained.
        plan: the stages.
    """

    settings: Settings
    student: Predictor
    plan: list[Stage]

    @property
    def updates(self) -> int:
        """Parameter updates of all stages, if none ends early."""
        return sum(stage.updates for stage in self.plan)


def load(settings: Settings) -> Parts:
    """Claim the device and load the model.

    Raises:
        ConfigError: a stage's or an evaluation's grid does not exist on the model's noise path, or the model cannot
            do the guidance that it is asked for, or is new, in whole or in part, where the student is an adapter.
        DistillkitError: the device or the model is not there, or the model does not take the adapter.
    """
    settings.engine.setup()
    model = settings.model
    # A new network's weights come from the run's seed.
    torch.manual_seed(generator(settings.run.seed, "network").initial_seed())
    model.load()
    path = model.spec.with_grid(settings.grid.spacing, settings.grid.start).path
    plan = make_plan(settings)
    if mistakes := _mistakes(settings, path, plan):
        raise ConfigError(mistakes, settings.origin)
    if settings.student is not None:
        torch.manual_seed(generator(settings.run.seed, "adapter").initial_seed())
        model.adapt(settings.student)
    # Training on data uses dropout; a distillation's targets are the network's as it samples.
    model.network.train(any(loss.options.against == "data" for loss in settings.losses))
    student = Predictor(
        model.network,
        path,
        model.spec.prediction,
        model.forward,
        place_copy=settings.engine.place_copy,
        unsharded=settings.engine.unsharded,
    )
    student.to(settings.engine.device)
    return Parts(settings, student, plan)


def prepare(parts: Parts) -> Sequence[Callable[[], None]]:
    """Open the data, and give source, teacher, target and engine what they need.

    Returns:
        what the source has to do before the first update, and before a checkpoint is restored.

    Raises:
        DistillkitError: the data cannot be read, or are not what the model takes; or the source's work cannot be done.
    """
    settings = parts.settings
    if settings.data is not None:
        settings.data.setup()
    if settings.data is not None and "data" in settings.source.gives:
        settings.data.check_shape(settings.model)
        _check_labels(settings.data, settings.model)
    if settings.teacher is not None:
        settings.teacher.setup(parts.student)
    if settings.target is not None:
        settings.target.setup(parts.student)
    for loss in settings.losses:
        loss.setup(parts.student.path)
    # Before the engine takes the network, with which it may do as it likes.
    work = prepare_source(parts)
    from distillkit.training.step import DistillStep

    step = DistillStep(
        parts.student, settings.teacher, settings.target, settings.losses, parts.student.path, parts.updates
    )
    settings.engine.prepare(step, parts.student.network, settings.optimizer, settings.ema)
    return work


def prepare_source(parts: Parts) -> Sequence[Callable[[], None]]:
    """Give the source what it needs; what it has to do before the first update."""
    settings = parts.settings
    settings.source.setup(settings.model, settings.data)
    if not isinstance(settings.source, PrecomputingSource):
        return ()
    with torch.no_grad(), settings.engine.autocast():
        return settings.source.prepare(parts.plan, parts.student, settings.teacher)


def _check_labels(data: Data, model: Model) -> None:
    """The data's labels must be classes that the model is conditioned on."""
    if model.spec.classes is None:
        return
    if data.classes is None and not model.spec.supports_guidance:
        raise DistillkitError(
            f"data: the images of '{data.name}' have no labels, and the model is conditioned on {model.spec.classes} "
            'classes, none of which means "no class"; give labelled images, or name that class in model.null_class'
        )
    if data.classes is not None and data.classes > model.spec.classes:
        raise DistillkitError(
            f"data: the images of '{data.name}' have {data.classes} classes, and the model {model.spec.classes}"
        )


def check_phases(phases: Sequence[Settings]) -> None:
    """What takes the loaded model to see, of all of a chain's phases before the first begins.

    Raises:
        ConfigError: a phase cannot do with what the one before will leave.
        DistillkitError: the device or the model is not there.
    """
    first = load(copy.deepcopy(phases[0])).settings
    mistakes = []
    for i, phase in enumerate(phases):
        path = first.model.spec.with_grid(phase.grid.spacing, phase.grid.start).path
        found = _mistakes(replace(phase, model=first.model), path, make_plan(phase), phases[:i])
        mistakes += [Mistake(f"phase[{i}].{mistake.key}", mistake.message) for mistake in found]
    if mistakes:
        raise ConfigError(mistakes, first.origin)


def _mistakes(
    settings: Settings, path: NoisePath, plan: list[Stage], earlier: Sequence[Settings] = ()
) -> list[Mistake]:
    """What takes the loaded model to see.

    Args:
        settings: with the model.
        path: its noise path, with the grids that they ask for.
        plan: their stages.
        earlier: the phases before, if they are a chain's.
    """
    spec, evaluation = settings.model.spec, settings.evaluation
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
    for mistake in [*_check_guidance(settings, taught), *([] if earlier else _check_adapter(settings))]:
        mistakes[mistake.key] = mistake
    return [*mistakes.values()]


def _check_guidance(settings: Settings, taught: bool) -> Iterator[Mistake]:
    """Scales that the model can do, and a teacher for what its network does not know yet."""
    spec, teacher = settings.model.spec, settings.teacher
    told = spec.guidance_input
    if told is not None and taught:
        told = replace(told, new=False)
    asked = {"source.guidance": settings.source.options.guidance, "evaluation.guidance": settings.evaluation.guidance}
    for key, guidance in asked.items():
        scales = guidance if isinstance(guidance, tuple) else (guidance,)
        if told is not None and not (told.low <= min(scales) and max(scales) <= told.high):
            yield Mistake(
                key,
                f"must lie in [{told.low:g}, {told.high:g}], the scales that the network takes as an input (got "
                f"{_written(scales)})",
            )
        elif not spec.supports_guidance and set(scales) != {1}:
            yield Mistake(key, "must be 1: the model has no null condition for guidance to compare with")
        elif told is None and min(scales) < 1:
            yield Mistake(
                key,
                f"must be 1 (none) or more, as diffusers' pipelines guide above 1 only (got {_written(scales)})",
            )
    mixes = teacher is not None and "guidance" in teacher.gives
    if told is not None and told.new and not mixes:
        yield Mistake(
            "model.guidance_input",
            "is new to the network, which has to be taught what it means first: begin with the preset 'guided', "
            "and distil its result (see [[phase]])",
        )
    elif teacher is not None and mixes and told is None:
        yield Mistake(
            "model.guidance_input",
            f"is required: the teacher '{teacher.name}' teaches the network to take the guidance scale as an input; "
            "give the lowest and the highest scale, as in [1.0, 3.0]",
        )
    elif teacher is not None and mixes and told is not None and not told.new:
        yield Mistake(
            "teacher.type",
            f"'{teacher.name}' mixes two predictions of a network without guidance, and {spec.label} takes the scale "
            "as an input and guides by itself; use a teacher that does not, as the presets pd, tsd and dsdi do",
        )


def _check_adapter(settings: Settings) -> Iterator[Mistake]:
    """What an adapter stands beside must be there for others, too."""
    spec = settings.model.spec
    told = spec.guidance_input
    if settings.student is None:
        return
    if spec.untrained:
        yield Mistake("student", "adapts a network that has been trained, and the model is a new one: leave it out")
    elif told is not None and told.new:
        yield Mistake(
            "student",
            "adapts what the network has, and model.guidance_input gives it a new layer: teach that one without "
            "[student], and distil the result (see [[phase]])",
        )


def _written(scales: tuple[float, ...]) -> str:
    numbers = ", ".join(f"{scale:g}" for scale in scales)
    return f"[{numbers}]" if len(scales) > 1 else numbers
