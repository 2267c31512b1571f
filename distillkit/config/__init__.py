"""Turns a TOML file, a preset and `--set` into checked settings, and these into components."""

from distillkit.config.plan import evaluations_before, make_plan, unreached
from distillkit.config.read import read_choice, read_component, read_config, read_scoring, table_of_result
from distillkit.config.settings import (
    Components,
    Config,
    Scoring,
    Settings,
    best_score,
    score_name,
    scores_taken,
    series,
    teacher_scales,
    teacher_solvers,
)
from distillkit.config.tables import Choice, EvaluationTable, RunTable
from distillkit.interfaces import EmaTable, OptimizerTable
from distillkit.noise.grids import GridTable

__all__ = [
    "Choice",
    "Components",
    "Config",
    "EmaTable",
    "EvaluationTable",
    "GridTable",
    "OptimizerTable",
    "RunTable",
    "Scoring",
    "Settings",
    "best_score",
    "evaluations_before",
    "make_plan",
    "read_choice",
    "read_component",
    "read_config",
    "read_scoring",
    "score_name",
    "scores_taken",
    "series",
    "table_of_result",
    "teacher_scales",
    "teacher_solvers",
    "unreached",
]
