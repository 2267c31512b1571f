"""What plugins implement, one abstract class a file, and the values that travel between them."""

from distillkit.interfaces.converter import Converter
from distillkit.interfaces.data import Data
from distillkit.interfaces.engine import Engine, Update
from distillkit.interfaces.features import Features, FeatureStatistics
from distillkit.interfaces.loss import Loss, Ramp
from distillkit.interfaces.metric import Metric
from distillkit.interfaces.model import Export, GuidanceInput, Inventory, Model, Sampler
from distillkit.interfaces.optimization import EmaTable, OptimizerTable
from distillkit.interfaces.schedule import Schedule
from distillkit.interfaces.source import Source
from distillkit.interfaces.steps import JumpBatch, Stage, TargetBatch
from distillkit.interfaces.student import StudentTable
from distillkit.interfaces.target import Target
from distillkit.interfaces.teacher import Teacher
from distillkit.interfaces.tracker import RunInfo, Tracker

__all__ = [
    "Converter",
    "Data",
    "EmaTable",
    "Engine",
    "Export",
    "FeatureStatistics",
    "Features",
    "GuidanceInput",
    "Inventory",
    "JumpBatch",
    "Loss",
    "Metric",
    "Model",
    "OptimizerTable",
    "Ramp",
    "RunInfo",
    "Sampler",
    "Schedule",
    "Source",
    "Stage",
    "StudentTable",
    "Target",
    "TargetBatch",
    "Teacher",
    "Tracker",
    "Update",
]
