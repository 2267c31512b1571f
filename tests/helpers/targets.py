"""A small network with its noise path, teachers of it, and jumps, to compute targets from.

`ALPHA` and `SIGMA` are the path's values in float64, indexed by time; the last entry, −1, is clean data.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from distillkit_dsd.dsd import EmaTeacher, SelfTeacher
from distillkit_pd.frozen_teacher import FrozenTeacher
from torch import Tensor, nn

from distillkit.interfaces import JumpBatch, Teacher, Update
from distillkit.noise import Condition, Predictor, TablePath

ALPHA_BAR = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
ALPHA = np.append(np.sqrt(ALPHA_BAR), 1.0)
SIGMA = np.append(np.sqrt(1 - ALPHA_BAR), 0.0)
BATCH = 2
PATH = TablePath(torch.from_numpy(ALPHA_BAR))
UPDATE = Update(grad_norm=torch.tensor(1.0), made=torch.tensor(1.0))


class Network(nn.Module):
    """A small network that is not linear in z and knows the time."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(self.mix(z) + (t / 500 - 1).view(-1, 1, 1, 1))


class Told(Network):
    """The small network, which also knows the step size."""

    def forward(self, z: Tensor, t: Tensor, step_size: Tensor | None = None) -> Tensor:
        assert step_size is not None
        return super().forward(z, t) * (1 + step_size.view(-1, 1, 1, 1))


def call(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    output: Tensor = network(z, t, **inputs)
    return output


def predictor(seed: int = 0) -> Predictor:
    torch.manual_seed(seed)
    return Predictor(Network(), PATH, "v_prediction", call)


def told(seed: int) -> Predictor:
    torch.manual_seed(seed)
    return Predictor(Told(), PATH, "v_prediction", call, step_input=True)


def set_up(teacher: Teacher, student: Predictor) -> Teacher:
    teacher.setup(student)
    return teacher


def self_teacher(student: Predictor) -> Teacher:
    return set_up(SelfTeacher(SelfTeacher.Options()), student)


def frozen(student: Predictor, **options: str) -> Teacher:
    return set_up(FrozenTeacher(FrozenTeacher.Options.model_validate(options)), student)


def ema(student: Predictor, decay: float) -> Teacher:
    return set_up(EmaTeacher(EmaTeacher.Options(decay=decay)), student)


def jump(*times: int) -> JumpBatch:
    """A jump over the given times, from noise."""
    torch.manual_seed(sum(times))
    return JumpBatch(torch.randn(BATCH, 1, 5, 5), torch.tensor(times).view(-1, 1).expand(-1, BATCH), Condition())


def x0_at(network: Predictor, z: Tensor, t: int) -> Tensor:
    with torch.no_grad():
        x0: Tensor = network(z, torch.full((BATCH,), t), Condition()).x0
    return x0


def weights(teacher: Teacher) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in teacher.state_dict().values()])
