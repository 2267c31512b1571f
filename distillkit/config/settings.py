"""A checked config as data, and the components that are made from it for one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from distillkit import interfaces
from distillkit.config.tables import Choice, EvaluationTable, GridTable, RunTable
from distillkit.interfaces import EmaTable, OptimizerTable, StudentTable


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The checked config of one phase. It is data: nothing in it is ever loaded or set up.

    Attributes:
        origin: the file it was read from.
        tables: the resolved config, every default written out; reading it again gives the same settings.
        run, grid, optimizer, ema, student, evaluation: the core's tables.
        choices: the components that the other tables name, by kind.
    """

    origin: str
    tables: dict[str, Any]
    run: RunTable
    grid: GridTable
    optimizer: OptimizerTable
    ema: EmaTable | None
    student: StudentTable | None
    evaluation: EvaluationTable
    choices: Mapping[str, Sequence[Choice]]

    def components(self) -> Components:
        """New components, none of them set up: for one run, or to ask what they need."""
        made = {kind: [choice.make() for choice in choices] for kind, choices in self.choices.items()}
        one = {kind: components[0] if components else None for kind, components in made.items()}
        return Components(
            **{field.name: getattr(self, field.name) for field in fields(Settings)},
            model=cast(interfaces.Model, one["model"]),
            teacher=cast(interfaces.Teacher | None, one["teacher"]),
            target=cast(interfaces.Target | None, one["target"]),
            schedule=cast(interfaces.Schedule, one["schedule"]),
            source=cast(interfaces.Source, one["source"]),
            data=cast(interfaces.Data | None, one["data"]),
            losses=cast(list[interfaces.Loss], made["loss"]),
            engine=cast(interfaces.Engine, one["engine"]),
            features=cast(interfaces.Features | None, one["features"]),
            metrics=cast(list[interfaces.Metric], made["metric"]),
            tracker=cast(interfaces.Tracker, one["tracker"]),
        )


@dataclass(frozen=True)
class Config:
    """A checked config: phases, mostly one, each of which begins with the result of the one before.

    Attributes:
        name: the run's name.
        phases: each phase's settings. The model of all but the first stands for the result of the phase before.
        tables: the resolved config; reading it again gives the same phases.
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
    """What scoring a model takes."""

    grid: GridTable
    evaluation: EvaluationTable
    engine: interfaces.Engine
    data: interfaces.Data | None
    features: interfaces.Features | None
    metrics: list[interfaces.Metric]


@dataclass(frozen=True, kw_only=True)
class Components(Settings, Scoring):
    """Settings with their components, which one run sets up and throws away.

    Attributes:
        losses: of all `[[loss]]` tables; the others as the tables of the config.
    """

    model: interfaces.Model
    teacher: interfaces.Teacher | None
    target: interfaces.Target | None
    schedule: interfaces.Schedule
    source: interfaces.Source
    losses: list[interfaces.Loss]
    tracker: interfaces.Tracker
