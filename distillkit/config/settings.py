"""A checked config: the core's tables and the parts that the others name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distillkit import interfaces
from distillkit.config.tables import EvaluationTable, GridTable, RunTable
from distillkit.interfaces import EmaTable, OptimizerTable, StudentTable


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What scoring a model takes.

    Attributes:
        all: as the tables of the config.
    """

    grid: GridTable
    evaluation: EvaluationTable
    engine: interfaces.Engine
    data: interfaces.Data | None
    features: interfaces.Features | None
    metrics: list[interfaces.Metric]


@dataclass(frozen=True, kw_only=True)
class Settings(Scoring):
    """
    Attributes:
        origin: the file it was read from.
        tables: the resolved config, every default written out; reading it again gives the same settings.
        others: as the tables of the config.
    """

    origin: str
    tables: dict[str, Any]
    run: RunTable
    optimizer: OptimizerTable
    ema: EmaTable | None
    student: StudentTable | None
    model: interfaces.Model
    teacher: interfaces.Teacher | None
    target: interfaces.Target | None
    schedule: interfaces.Schedule
    source: interfaces.Source
    losses: list[interfaces.Loss]
    tracker: interfaces.Tracker
