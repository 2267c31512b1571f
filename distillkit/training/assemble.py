"""Makes a phase ready to run: load the model, set up the components, hand the network to the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from distillkit.config import Components, make_plan
from distillkit.errors import ConfigError
from distillkit.interfaces import PrecomputingSource, Stage
from distillkit.noise import Predictor
from distillkit.registry import checked, wrong
from distillkit.sampling import generator
from distillkit.training.checks import check_data, check_model, check_spec, path_of
from distillkit.training.seams import check_engine, watch_data, watch_model


@dataclass(frozen=True)
class Parts:
    """What the training loop works with.

    Attributes:
        components: the run's components; the model is loaded, and `prepare` sets up the others.
        student: the network that is trained.
        plan: the stages.
    """

    components: Components
    student: Predictor
    plan: list[Stage]

    @property
    def updates(self) -> int:
        """Parameter updates of all stages, if none ends early."""
        return sum(stage.updates for stage in self.plan)


def load(components: Components) -> Parts:
    """Claim the device and load the model.

    Args:
        components: with new components.

    Raises:
        ConfigError: a stage's or an evaluation's grid does not exist on the model's noise path, or the model cannot
            do the guidance that it is asked for, or is new, in whole or in part, where the student is an adapter.
        DistillkitError: the device or the model is not there, or the model does not take the adapter or the input for
            the guidance scale.
    """
    components.engine.setup()
    check_engine(components.engine)
    model = components.model
    # A new network's weights come from the run's seed.
    torch.manual_seed(generator(components.run.seed, "network").initial_seed())
    model.load()
    check_spec(model)
    path = path_of(model, components.grid)
    plan = make_plan(components)
    if mistakes := check_model(components, path):
        raise ConfigError(mistakes, components.origin)
    if components.scales is not None and model.spec.guidance_input is None:
        model.add_guidance_input(*components.scales)
    if components.adapter is not None:
        torch.manual_seed(generator(components.run.seed, "adapter").initial_seed())
        model.adapt(components.adapter)
        if not any(weight.requires_grad for weight in model.network.parameters()):
            raise wrong(model, "adapt()", "no weight that requires a gradient", "those of the adapter to require one")
    # Training on data uses dropout; a distillation's targets are the network's as it samples.
    model.network.train(any(loss.options.against == "data" for loss in components.losses))
    student = Predictor(
        model.network,
        path,
        model.spec.prediction,
        model.forward,
        step_input=model.step_input,
        place_copy=components.engine.place_copy,
        unsharded=components.engine.unsharded,
    )
    student.to(components.engine.device)
    return Parts(components, student, plan)


def prepare(parts: Parts) -> Sequence[Callable[[], None]]:
    """Open the data, and give source, teacher, target and engine what they need.

    Returns:
        what the source has to do before the first update, and before a checkpoint is restored.

    Raises:
        DistillkitError: the data cannot be read, or are not what the model takes; or the source's work cannot be done.
    """
    components = parts.components
    if components.data is not None:
        components.data.setup()
        watch_data(components.data)
    if components.data is not None and "data" in components.source.gives:
        check_data(components.data, components.model)
    if components.teacher is not None:
        components.teacher.setup(parts.student)
    if components.target is not None:
        components.target.setup(parts.student)
    critic, critic_engine = components.critic, components.critic_engine
    if critic is not None:
        critic.setup(components.model, parts.student, components.data)
    for loss in components.losses:
        loss.setup(parts.student.path)
    # After the copies are made, which would keep the check of the network's outputs.
    watch_model(components.model, parts.student)
    # Before the engine takes the network, which it may wrap or shard.
    work = prepare_source(parts)
    from distillkit.training.step import CriticStep, DistillStep  # their base class is torch's

    step = DistillStep(
        parts.student,
        components.teacher,
        components.target,
        components.losses,
        parts.student.path,
        parts.updates,
        critic,
    )
    components.engine.prepare(step, parts.student.network, components.optimizer, components.ema)
    if critic is not None and critic_engine is not None:
        critic_engine.setup()
        critic_engine.prepare(CriticStep(critic), critic.network, critic.options.optimizer, None)
    return work


def prepare_source(parts: Parts) -> Sequence[Callable[[], None]]:
    """Give the source what it needs; what it has to do before the first update."""
    components = parts.components
    components.source.setup(components.model, components.data)
    if not isinstance(components.source, PrecomputingSource):
        return ()
    with torch.no_grad(), components.engine.autocast():
        work = components.source.prepare(parts.plan, parts.student, components.teacher)
    fits = isinstance(work, Sequence) and all(callable(part) for part in work)
    return checked(components.source, "prepare()", work, fits, "a sequence of functions")
