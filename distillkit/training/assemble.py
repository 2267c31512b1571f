"""Makes a phase ready to run: load the model, set up the components, hand the network to the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from distillkit.config import Components, make_plan
from distillkit.errors import ConfigError
from distillkit.interfaces import PrecomputingSource, Stage
from distillkit.noise import Predictor
from distillkit.sampling import generator
from distillkit.training.checks import check_data, check_model


@dataclass(frozen=True)
class Parts:
    """What the loop works with.

    Attributes:
        settings: the settings, with components that are set up.
        student: the network that is trained.
        plan: the stages.
    """

    settings: Components
    student: Predictor
    plan: list[Stage]

    @property
    def updates(self) -> int:
        """Parameter updates of all stages, if none ends early."""
        return sum(stage.updates for stage in self.plan)


def load(settings: Components) -> Parts:
    """Claim the device and load the model.

    Args:
        settings: with new components.

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
    if mistakes := check_model(settings, path, plan):
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
        check_data(settings.data, settings.model)
    if settings.teacher is not None:
        settings.teacher.setup(parts.student)
    if settings.target is not None:
        settings.target.setup(parts.student)
    for loss in settings.losses:
        loss.setup(parts.student.path)
    # Before the engine takes the network, which it may wrap or shard.
    work = prepare_source(parts)
    from distillkit.training.step import DistillStep  # its base class is torch's

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
