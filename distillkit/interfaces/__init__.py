"""The abstract classes that plugins implement, and the values that these exchange."""

from distillkit.interfaces.averaged import Averaged
from distillkit.interfaces.converter import Converter
from distillkit.interfaces.critic import Critic, Landing
from distillkit.interfaces.data import Data
from distillkit.interfaces.distillation import Source, Target, Teacher
from distillkit.interfaces.engine import EmaTable, Engine, OptimizerTable, Update
from distillkit.interfaces.inventory import Inventory
from distillkit.interfaces.jumps import JumpBatch, TargetBatch
from distillkit.interfaces.levels import LevelSource
from distillkit.interfaces.loss import Loss, Ramp
from distillkit.interfaces.metric import Features, FeatureStatistics, Metric
from distillkit.interfaces.model import (
    Export,
    GuidanceInput,
    Model,
    ModelSpec,
    Sampler,
)
from distillkit.interfaces.precomputing import PrecomputingSource
from distillkit.interfaces.schedule import Schedule, Stage
from distillkit.interfaces.stateful import Stateful
from distillkit.interfaces.student import PREVIOUS, StudentTable
from distillkit.interfaces.tracker import NoTracker, RunInfo, Tracker

__all__ = [
    "PREVIOUS",
    "Averaged",
    "Converter",
    "Critic",
    "Data",
    "EmaTable",
    "Engine",
    "Export",
    "FeatureStatistics",
    "Features",
    "GuidanceInput",
    "Inventory",
    "JumpBatch",
    "Landing",
    "LevelSource",
    "Loss",
    "Metric",
    "Model",
    "ModelSpec",
    "NoTracker",
    "OptimizerTable",
    "PrecomputingSource",
    "Ramp",
    "RunInfo",
    "Sampler",
    "Schedule",
    "Source",
    "Stage",
    "Stateful",
    "StudentTable",
    "Target",
    "TargetBatch",
    "Teacher",
    "Tracker",
    "Update",
]
