"""Scores of samples, and grids of sample images."""

from distillkit.evaluation.evaluate import Evaluator
from distillkit.evaluation.pictures import Pictures, Which, to_uint8
from distillkit.evaluation.report import gains, sheet, write_png

__all__ = ["Evaluator", "Pictures", "Which", "gains", "sheet", "to_uint8", "write_png"]
