"""`engine.gradient_checkpointing`: the same gradients from fewer activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from distillkit_engines.torch_engine import TorchEngine
from helpers.networks import dit, pixel_unet
from torch import Tensor, nn

from distillkit.errors import DistillkitError
from distillkit.interfaces import OptimizerTable


class Step(nn.Module):
    """A loss of a network's output."""

    def __init__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.network, self.inputs = network, inputs

    def forward(self, goal: Tensor) -> Tensor:
        output: Tensor = self.network(*self.inputs, return_dict=False)[0]
        return (output - goal).square().mean()


def prepared(network: nn.Module, inputs: tuple[Tensor, ...], recompute: bool) -> TorchEngine:
    engine = TorchEngine(TorchEngine.Options(device="cpu", gradient_checkpointing=recompute))
    engine.setup()
    # In evaluation mode, as a student is distilled.
    engine.prepare(Step(network.eval(), inputs), network, OptimizerTable(), None)
    return engine


def gradients(
    make: Callable[[], nn.Module], inputs: tuple[Tensor, ...], recompute: bool
) -> tuple[dict[str, Tensor], int]:
    """Each weight's gradient, and the bytes that were kept for the backward pass."""
    network = make()
    engine = prepared(network, inputs, recompute)
    weights = {weight.data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = engine.forward(torch.zeros(()))
    loss.backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}, sum(
        kept.values()
    )


z, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 700])
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "UNet2DModel": (lambda: pixel_unet(in_channels=4, out_channels=4, layers_per_block=2), (z, t)),
    "DiTTransformer2DModel": (dit, (z, t, torch.tensor([3, 1000]))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same(name: str) -> None:
    make, inputs = NETWORKS[name]
    (expected, most), (found, fewer) = (gradients(make, inputs, recompute) for recompute in (False, True))
    assert found.keys() == expected.keys()
    assert len(found) > 10
    for key, gradient in expected.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-7)
    assert any(gradient.abs().max() > 1e-3 for gradient in found.values())
    assert fewer < most / 2


def test_what_is_exported_says_nothing_of_it() -> None:
    network: Any = pixel_unet()
    before = dict(network.config)
    prepared(network, (z[:, :1], t), recompute=True)
    assert dict(network.config) == before


def test_a_network_without_it() -> None:
    with pytest.raises(DistillkitError) as caught:
        prepared(nn.Linear(2, 2), (), recompute=True)
    assert str(caught.value) == ("engine.gradient_checkpointing: Linear has no gradient checkpointing; set it to false")
