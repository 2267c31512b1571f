"""From a TOML file, a preset and `--set` to checked settings and the components that they name."""

from distillkit.config.pieces import read_choice, read_component, read_scoring, table_of_result
from distillkit.config.plan import evaluations_before, make_plan
from distillkit.config.read import read_config
from distillkit.config.settings import Components, Config, Scoring, Settings
from distillkit.config.tables import Choice, EvaluationTable, GridTable, RunTable
from distillkit.config.watch import find_score, score_name, scores_taken, series
from distillkit.interfaces import EmaTable, OptimizerTable

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
    "evaluations_before",
    "find_score",
    "make_plan",
    "read_choice",
    "read_component",
    "read_config",
    "read_scoring",
    "score_name",
    "scores_taken",
    "series",
    "table_of_result",
]
