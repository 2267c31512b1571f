"""A checked config as data, the components that are made from it for one run, and its scores.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from distillkit import interfaces
from distillkit.config.tables import Choice, EvaluationTable, RunTable
from distillkit.interfaces import EmaTable, Features, Metric, OptimizerTable, Stage, StudentTable
from distillkit.noise.grids import GridTable
from distillkit.registry import checked


@dataclass(frozen=True, kw_only=True)
class CoreTables:
    """The checked tables of one phase that the core reads.

    Attributes:
        origin: the file that they were read from.
        tables: the resolved config, with every default written out. Reading it again gives the same settings.
    """

    origin: str
    tables: dict[str, Any]
    run: RunTable
    grid: GridTable
    optimizer: OptimizerTable
    ema: EmaTable | None
    student: StudentTable | None
    evaluation: EvaluationTable

    @property
    def adapter(self) -> StudentTable | None:
        """`[student]`, if it asks for an adapter."""
        return None if self.student is None or self.student.adapter is None else self.student

    @property
    def start(self) -> Path | None:
        """Where the student's weights come from, if they are not the model's."""
        return None if self.student is None else self.student.start

    @property
    def baked(self) -> bool:
        """Whether the student learns to make guided samples without guidance."""
        return self.student is not None and self.student.guidance == "baked"


@dataclass(frozen=True, kw_only=True)
class Settings(CoreTables):
    """The checked config of one phase. It is data: nothing in it is loaded or set up.

    Attributes:
        choices: the components that the other tables name, by kind.
    """

    choices: Mapping[str, Sequence[Choice]]

    def components(self) -> Components:
        """Make new components. None of them is set up."""
        made = {kind: [choice.make() for choice in choices] for kind, choices in self.choices.items()}
        one = {kind: components[0] if components else None for kind, components in made.items()}
        model, teacher = cast(interfaces.Model, one["model"]), cast(interfaces.Teacher | None, one["teacher"])
        # In a config with mistakes, there may be no model.
        if teacher is not None and one["model"] is not None and model.step_input:
            teacher.reuses_student = False
        return Components(
            **{field.name: getattr(self, field.name) for field in fields(CoreTables)},
            model=model,
            teacher=teacher,
            target=cast(interfaces.Target | None, one["target"]),
            critic=cast(interfaces.Critic | None, one["critic"]),
            critic_engine=self._critic_engine(),
            schedule=cast(interfaces.Schedule, one["schedule"]),
            source=cast(interfaces.Source, one["source"]),
            data=cast(interfaces.Data | None, one["data"]),
            losses=cast(list[interfaces.Loss], made["loss"]),
            engine=cast(interfaces.Engine, one["engine"]),
            features=cast(interfaces.Features | None, one["features"]),
            metrics=cast(list[interfaces.Metric], made["metric"]),
            tracker=cast(interfaces.Tracker, one["tracker"]),
        )

    def _critic_engine(self) -> interfaces.Engine | None:
        # In a config with mistakes, there may be no engine.
        if not (self.choices["critic"] and self.choices["engine"]):
            return None
        return cast(interfaces.Engine, self.choices["engine"][0].make())


@dataclass(frozen=True)
class Config:
    """A checked config: one or more phases. Each phase begins with the result of the phase before.

    Attributes:
        name: the run's name.
        phases: the settings of each phase. In all but the first, the result of the phase before replaces the model.
        tables: the resolved config. Reading it again gives the same phases.
    """

    name: str
    phases: Sequence[Settings]
    tables: dict[str, Any]

    @classmethod
    def of(cls, settings: Settings) -> Config:
        """The config of a single phase."""
        return cls(settings.run.name, [settings], settings.tables)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is needed to score a model."""

    grid: GridTable
    evaluation: EvaluationTable
    engine: interfaces.Engine
    data: interfaces.Data | None
    features: interfaces.Features | None
    metrics: list[interfaces.Metric]


@dataclass(frozen=True, kw_only=True)
class Components(CoreTables, Scoring):
    """The components of one run, and the core's tables. A run sets them up, and they are discarded after it.

    Attributes:
        critic_engine: trains the critic, as `engine` trains the student; None without a critic.
        losses: one for each `[[loss]]` table. The other fields have the names of the config's tables.
    """

    model: interfaces.Model
    teacher: interfaces.Teacher | None
    target: interfaces.Target | None
    critic: interfaces.Critic | None
    critic_engine: interfaces.Engine | None
    schedule: interfaces.Schedule
    source: interfaces.Source
    losses: list[interfaces.Loss]
    tracker: interfaces.Tracker

    @property
    def scales(self) -> tuple[float, float] | None:
        """The range of guidance scales that are baked into the student, which is told the one of each sample."""
        guidance = self.source.options.guidance
        return guidance if self.baked and isinstance(guidance, tuple) else None

    @property
    def baked_scale(self) -> float | None:
        """The one guidance scale that is baked into the student; None if there is none, or several are."""
        guidance = self.source.options.guidance
        return guidance if self.baked and not isinstance(guidance, tuple) else None


def score_name(label: str, steps: int) -> str:
    """The name of a metric's score at a number of sampling steps, such as "fd-fashion/steps-4"."""
    return f"{label}/steps-{steps}"


def label(metric: Metric, features: Features) -> str:
    """The name of a metric's score in these features.

    Raises:
        PartError: it is no name.
    """
    name = metric.label(features)
    return checked(metric, "label()", name, isinstance(name, str) and name != "", "a name for the score")


def scores_taken(components: Components) -> dict[str, Metric]:
    """The scores that are taken during the run, as name -> metric."""
    features = components.features
    if features is None:
        return {}
    return {
        score_name(label(metric, features), steps): metric
        for metric in components.metrics
        for steps in components.evaluation.steps
    }


def watched(components: Components, steps: int) -> str | None:
    """The score that decides when a stage ends; None if none does.

    Args:
        components: of the run.
        steps: the student's sampling steps in the stage.
    """
    wanted = wanted_score(components, steps)
    return None if wanted is None else find_score(components, wanted)


def wanted_score(components: Components, steps: int) -> str | None:
    """The score that the schedule wants to watch, as it names it.

    Raises:
        PartError: it is no name.
    """
    name = components.schedule.watches(steps)
    return checked(components.schedule, "watches()", name, isinstance(name, str | None), "the name of a score, or None")


def find_score(components: Components, wanted: str) -> str | None:
    """The full name of "fd-fashion/steps-4" or "steps-4" (of the first metric); None if the run does not take it."""
    return next((name for name in scores_taken(components) if name == wanted or name.endswith(f"/{wanted}")), None)


def teacher_solvers(components: Components) -> tuple[str, ...]:
    """How the teacher is sampled for its scores; the model is loaded."""
    return components.evaluation.teacher_solvers or ("ddim", *components.model.spec.solvers[:2])


def teacher_scales(evaluation: EvaluationTable) -> tuple[float, ...]:
    """The guidance scales with which the teacher is sampled for its scores."""
    own = evaluation.teacher_guidance
    return own if isinstance(own, tuple) else (evaluation.guidance if own is None else own,)


def best_score(components: Components) -> str | None:
    """The score that `evaluation.best` means; None if it is not set."""
    wanted = components.evaluation.best
    return None if wanted is None else find_score(components, wanted)


def series(components: Components, stage: Stage, scores: Sequence[Mapping[str, float]]) -> list[float]:
    """The watched score after each evaluation of a stage, negated if higher is better; empty if none is watched.

    Args:
        components: of the run.
        stage: the stage.
        scores: all scores by name, for each evaluation in the stage.
    """
    name = watched(components, stage.jumps)
    if name is None:
        return []
    sign = -1 if scores_taken(components)[name].higher_is_better else 1
    return [sign * taken[name] for taken in scores]
