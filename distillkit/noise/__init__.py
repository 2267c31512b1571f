"""The noise algebra: paths α(t), σ(t), their grids of times, DDIM steps, and what a network's output says."""

from distillkit.noise.cosine import CosinePath
from distillkit.noise.edm import EdmPath
from distillkit.noise.flow import FlowPath
from distillkit.noise.path import NoisePath
from distillkit.noise.prediction import GUIDANCE, STEP_SIZE, Condition, Prediction, PredictionType
from distillkit.noise.predictor import Predictor
from distillkit.noise.table import TablePath

__all__ = [
    "GUIDANCE",
    "STEP_SIZE",
    "Condition",
    "CosinePath",
    "EdmPath",
    "FlowPath",
    "NoisePath",
    "Prediction",
    "PredictionType",
    "Predictor",
    "TablePath",
]
