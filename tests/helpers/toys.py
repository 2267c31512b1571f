"""A small network, batches for it, and an engine that trains it."""

from __future__ import annotations

from typing import Any

import torch
from distillkit_engines.torch_engine import TorchEngine
from torch import Tensor, nn

from distillkit.interfaces import EmaTable, OptimizerTable, Update

UPDATES = 12


class Toy(nn.Module):
    """Mean squared error of a small network: (inputs, goals) -> (loss, None)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))

    def forward(self, step: tuple[Tensor, Tensor]) -> tuple[Tensor, None]:
        inputs, goals = step
        self.output = self.network(inputs)
        return (self.output.float() - goals).square().mean(), None


def batch(update: int, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(update)
    return torch.randn(size, 5, generator=generator), 9 * torch.randn(size, 3, generator=generator)


def prepared(module: Toy, ema: EmaTable | None = None, device: str = "cpu", **optimizer: Any) -> TorchEngine:
    engine = TorchEngine(TorchEngine.Options(device=device, precision="fp32"))
    engine.setup()
    engine.prepare(module, module.network, OptimizerTable(**optimizer), ema)
    return engine


def make_update(engine: TorchEngine, update: int, learning_rate: float = 1e-2) -> Update:
    inputs, goals = batch(update)
    loss, _ = engine.forward((inputs.to(engine.device), goals.to(engine.device)))
    made = engine.update(loss, learning_rate)
    assert made is not None
    return made
