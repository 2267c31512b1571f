"""Networks of a few weights: one with batches and an engine that trains it, and one as a class-conditional model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from distillkit_engines.torch_engine import TorchEngine
from torch import Tensor, nn

from distillkit.interfaces import EmaTable, Export, Model, ModelSpec, OptimizerTable, Update
from distillkit.noise import Condition, Predictor, TablePath

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


BETAS = torch.linspace(1e-4, 0.02, 100, dtype=torch.float64)


class TinyNetwork(nn.Module):
    """One convolution and a bias per class (the fourth is "no class"), with dropout while training."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(1, 1, 3, padding=1)
        self.classes = nn.Embedding(4, 1)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.batches: list[int] = []

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        self.batches.append(len(z))
        return self.drop(self.mix(z) + self.classes(labels)[:, :, None, None])


class TinyModel(Model):
    """Three classes and a null class, pictures of 4×4."""

    name = "tiny"

    def load(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = TinyNetwork()
        path = TablePath((1 - BETAS).cumprod(0))
        self.spec = ModelSpec("tiny", path, "v_prediction", (1, 4, 4), classes=3, supports_guidance=True)

    def forward(self, network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return cast(Tensor, network(z, inputs["labels"]))

    def condition(self, labels: Tensor | None, count: int, guidance: Tensor | None = None) -> Condition:
        assert labels is not None
        return Condition({"labels": labels}, {"labels": torch.full_like(labels, 3)}, guidance)

    def export(self, network: nn.Module, folder: Path, export: Export) -> None:
        raise NotImplementedError

    def predictor(self) -> Predictor:
        return Predictor(self.network, self.spec.path, self.spec.prediction, self.forward)
