"""From settings to parts that are ready to run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillkit.config import PlannedStage, Settings, make_plan
from distillkit.errors import ConfigError, DistillkitError, GridError, Mistake
from distillkit.interfaces import Data, Model
from distillkit.noise import Predictor
from distillkit.noise.seeds import generator
from distillkit.training.step import DistillStep


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
    plan: list[PlannedStage]

    @property
    def updates(self) -> int:
        """Parameter updates of all stages, if none ends early."""
        return sum(planned.stage.updates for planned in self.plan)


def load(settings: Settings) -> Parts:
    """Claim the device and load the model.

    Raises:
        ConfigError: a stage's or an evaluation's grid does not exist on the model's noise path, or guidance is asked
            of a model that has no null condition.
        DistillkitError: the device or the model is not there.
    """
    settings.engine.setup()
    model = settings.model
    # A new network's weights come from the run's seed.
    torch.manual_seed(generator(settings.run.seed, "network").initial_seed())
    model.load()
    model.set_grid(settings.grid.spacing, settings.grid.start)
    plan = make_plan(settings)
    _check(settings, plan)
    student = Predictor(model.network, model.path, model.prediction, model.forward)
    # Training on data uses dropout; a distillation's targets are the network's as it samples.
    student.train(any(loss.options.against == "data" for loss in settings.losses))
    student.to(settings.engine.device)
    return Parts(settings, student, plan)


def prepare(parts: Parts) -> None:
    """Open the data, and give source, teacher, target and engine what they need.

    Raises:
        DistillkitError: the data cannot be read, or are not what the model takes.
    """
    settings = parts.settings
    if settings.data is not None:
        settings.data.setup()
    if settings.source.needs_data and settings.data is not None:
        settings.data.check_shape(settings.model)
        _check_labels(settings.data, settings.model)
    settings.source.setup(settings.model, settings.data)
    if settings.teacher is not None:
        settings.teacher.setup(parts.student, parts.student.copy, settings.engine.place_frozen)
    if settings.target is not None:
        settings.target.setup(parts.student, parts.student.copy, settings.engine.place_frozen)
    for loss in settings.losses:
        loss.setup(settings.model.path)
    step = DistillStep(
        parts.student, settings.teacher, settings.target, settings.losses, settings.model.path, parts.updates
    )
    settings.engine.prepare(step, parts.student.network, settings.optimizer, settings.ema)


def _check_labels(data: Data, model: Model) -> None:
    """The data's labels must be classes that the model is conditioned on."""
    if model.classes is None:
        return
    if data.classes is None and not model.supports_guidance:
        raise DistillkitError(
            f"data: the images of '{data.name}' have no labels, and the model is conditioned on {model.classes} "
            'classes, none of which means "no class"; give labelled images, or name that class in model.null_class'
        )
    if data.classes is not None and data.classes > model.classes:
        raise DistillkitError(
            f"data: the images of '{data.name}' have {data.classes} classes, and the model {model.classes}"
        )


def _check(settings: Settings, plan: list[PlannedStage]) -> None:
    """What takes the loaded model to see."""
    path, evaluation = settings.model.path, settings.evaluation
    wanted = [("schedule", planned.stage.steps) for planned in plan]
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
    if not settings.model.supports_guidance:
        asked = {"source.guidance": settings.source.options.guidance, "evaluation.guidance": evaluation.guidance}
        for key, guidance in asked.items():
            if guidance not in (1, (1, 1)):
                mistakes[key] = Mistake(key, "must be 1: the model has no null condition for guidance to compare with")
    if mistakes:
        raise ConfigError(mistakes.values(), settings.origin)
