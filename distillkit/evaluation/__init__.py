"""Scores of samples, grids of sample images, and the table of scores."""

from distillkit.evaluation.evaluate import Evaluator
from distillkit.evaluation.pictures import Pictures, Which, to_uint8
from distillkit.evaluation.report import sheet, tables, write_png

__all__ = ["Evaluator", "Pictures", "Which", "sheet", "tables", "to_uint8", "write_png"]
