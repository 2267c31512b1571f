"""Scores samples, draws sample sheets and prints the table. Imports torch."""

from distillkit.evaluation.evaluate import Evaluator
from distillkit.evaluation.grid import sheet, write_png
from distillkit.evaluation.pictures import Pictures, Which, to_uint8
from distillkit.evaluation.report import tables

__all__ = ["Evaluator", "Pictures", "Which", "sheet", "tables", "to_uint8", "write_png"]
