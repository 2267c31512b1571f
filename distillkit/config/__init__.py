"""From a TOML file, a preset and `--set` to checked settings and the parts that they name."""

from distillkit.config.chain import Chain, read_chain
from distillkit.config.pieces import read_component, read_scoring, table_of_result
from distillkit.config.plan import evaluations_before, make_plan
from distillkit.config.read import read_config
from distillkit.config.settings import Scoring, Settings
from distillkit.config.tables import (
    EmaTable,
    EvaluationTable,
    GridTable,
    OptimizerTable,
    RunTable,
)
from distillkit.config.watch import find_score, score_name, scores_taken, series

__all__ = [
    "Chain",
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
    "read_chain",
    "read_component",
    "read_config",
    "read_scoring",
    "score_name",
    "scores_taken",
    "series",
    "table_of_result",
]
