"""The torch engine against a plain float64 loop."""

from __future__ import annotations

from math import cos, pi
from typing import Any

import pytest
import torch
from distillkit_engines.torch_engine import TorchEngine
from helpers.toys import UPDATES, Toy, batch, make_update, prepared
from torch import Tensor, nn

from distillkit.interfaces import EmaTable, OptimizerTable
from distillkit.training.loop import learning_rate_at


def plain_loop(table: OptimizerTable, rate: Any) -> tuple[list[dict[str, Tensor]], list[float]]:
    """Weights after each update and gradient norms: AdamW (Loshchilov & Hutter 2019, algorithm 2) written out."""
    module = Toy().double()
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in module.network.named_parameters()}
    (one, two), history, norms = table.betas, [], []
    for update in range(UPDATES):
        inputs, goals = batch(update)
        module.zero_grad()
        (module.network(inputs.double()) - goals.double()).square().mean().backward()
        grads = {name: p.grad for name, p in module.network.named_parameters() if p.grad is not None}
        norm = torch.stack([grad.square().sum() for grad in grads.values()]).sum().sqrt()
        norms.append(norm.item())
        shrink = min(1.0, table.clip / norm.item()) if table.clip else 1.0
        with torch.no_grad():
            for name, weight in module.network.named_parameters():
                first, second = moments[name]
                grad = grads[name] * shrink
                first.lerp_(grad, 1 - one)
                second.lerp_(grad.square(), 1 - two)
                denominator = (second / (1 - two ** (update + 1))).sqrt() + table.eps
                weight.mul_(1 - rate(update) * table.weight_decay)
                weight.sub_(rate(update) * first / (1 - one ** (update + 1)) / denominator)
        history.append({name: p.detach().clone() for name, p in module.network.named_parameters()})
    return history, norms


def assert_weights(network: nn.Module, expected: dict[str, Tensor]) -> None:
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight.detach().cpu().double(), expected[name], rtol=1e-4, atol=1e-6)


def cosine(update: int) -> float:
    return 1e-3 + (1e-2 - 1e-3) * 0.5 * (1 + cos(pi * update / UPDATES))


STAGE = 5  # updates of a stage; the last one is shorter

RATES = {
    "constant": ({}, lambda update: 1e-2),
    "cosine": ({"final_learning_rate": 1e-3}, cosine),
    "linear": ({"final_learning_rate": 1e-3, "shape": "linear"}, lambda update: 1e-2 - 9e-3 * update / UPDATES),
    # Salimans & Ho 2022, appendix: linearly to 0 in each stage.
    "linear to 0 in each stage": (
        {"final_learning_rate": 0.0, "shape": "linear", "decay": "stage"},
        lambda update: 1e-2 * (1 - update % STAGE / STAGE),
    ),
    "cosine in each stage": (
        {"final_learning_rate": 1e-3, "decay": "stage"},
        lambda update: 1e-3 + 9e-3 * 0.5 * (1 + cos(pi * (update % STAGE) / STAGE)),
    ),
    "linear in each stage, with warm-up": (
        {"final_learning_rate": 0.0, "shape": "linear", "decay": "stage", "warmup": 7},
        lambda update: 1e-2 * (1 - update % STAGE / STAGE) * min(1, (update + 1) / 7),
    ),
    "warm-up": ({"warmup": 4}, lambda update: 1e-2 * min(1, (update + 1) / 4)),
    "cosine with warm-up": (
        {"final_learning_rate": 1e-3, "warmup": 4},
        lambda update: cosine(update) * min(1, (update + 1) / 4),
    ),
}


@pytest.mark.parametrize("shape", RATES)
def test_learning_rates_and_adamw(shape: str) -> None:
    options, rate = RATES[shape]
    table = {"learning_rate": 1e-2, "betas": (0.9, 0.98), "weight_decay": 0.1, "clip": 0.0} | options
    module = Toy()
    engine = prepared(module, **table)
    history, norms = plain_loop(OptimizerTable(**table), rate)
    for update in range(UPDATES):
        found = learning_rate_at(OptimizerTable(**table), (update, UPDATES), (update % STAGE, STAGE))
        assert found == pytest.approx(rate(update), rel=1e-12)
        made = make_update(engine, update, found)
        assert made.grad_norm.item() == pytest.approx(norms[update], rel=1e-4)
        assert_weights(module.network, history[update])


def test_clipping_bounds_the_gradient_and_tells_its_norm_before() -> None:
    table = {"learning_rate": 1e-2, "clip": 0.5, "eps": 1.0}  # a large ε makes AdamW feel the gradient's size
    module = Toy()
    engine = prepared(module, **table)
    history, norms = plain_loop(OptimizerTable(**table), lambda update: 1e-2)
    unclipped, _ = plain_loop(OptimizerTable(**table | {"clip": 0.0}), lambda update: 1e-2)
    assert min(norms) > 0.5
    for update in range(UPDATES):
        assert make_update(engine, update).grad_norm.item() == pytest.approx(norms[update], rel=1e-4)
    assert_weights(module.network, history[-1])
    with pytest.raises(AssertionError):
        assert_weights(module.network, unclipped[-1])


def test_fused_adamw_is_adamw() -> None:
    module, other = Toy(), Toy()
    engine = prepared(module, learning_rate=1e-2, weight_decay=0.1)
    plain = torch.optim.AdamW(other.parameters(), lr=1e-2, weight_decay=0.1, foreach=False, fused=False)
    for update in range(UPDATES):
        make_update(engine, update)
        plain.zero_grad()
        other(batch(update))[0].backward()
        torch.nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        plain.step()
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_accumulated_halves_are_the_whole_batch() -> None:
    halves, whole = Toy(), Toy()
    accumulating, plain = prepared(halves, learning_rate=1e-2, accumulate=2), prepared(whole, learning_rate=1e-2)
    for update in range(UPDATES):
        inputs, goals = batch(update)
        first, _ = accumulating.forward((inputs[:4], goals[:4]))
        before = [weight.detach().clone() for weight in halves.parameters()]
        assert accumulating.update(first, 1e-2) is None
        assert all(torch.equal(weight, old) for weight, old in zip(halves.parameters(), before, strict=True))
        second, _ = accumulating.forward((inputs[4:], goals[4:]))
        made = accumulating.update(second, 1e-2)
        assert made is not None
        torch.testing.assert_close(made.grad_norm, make_update(plain, update).grad_norm, rtol=1e-5, atol=0)
    for mine, theirs in zip(halves.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("warmup", [False, True])
def test_average_of_the_weights(warmup: bool) -> None:
    table = {"learning_rate": 1e-2, "clip": 0.0}
    module = Toy()
    expected = {name: weight.detach().double() for name, weight in module.network.named_parameters()}
    engine = prepared(module, EmaTable(decay=0.6, warmup=warmup), **table)
    history, _ = plain_loop(OptimizerTable(**table), lambda update: 1e-2)
    for update in range(UPDATES):
        make_update(engine, update)
        decay = min(0.6, (1 + update) / (10 + update)) if warmup else 0.6
        expected = {name: decay * mean + (1 - decay) * history[update][name] for name, mean in expected.items()}
        with engine.averaged():
            assert_weights(module.network, expected)
        assert_weights(module.network, history[update])


def test_average_is_given_back_after_an_error() -> None:
    module = Toy()
    engine = prepared(module, EmaTable(decay=0.9), learning_rate=1e-2)
    make_update(engine, 0)
    before = [weight.detach().clone() for weight in module.parameters()]
    with pytest.raises(KeyboardInterrupt), engine.averaged():
        raise KeyboardInterrupt
    assert all(torch.equal(weight, old) for weight, old in zip(module.parameters(), before, strict=True))
    without = prepared(Toy(), learning_rate=1e-2)
    with without.averaged():
        make_update(without, 0)


def test_state_goes_on_in_another_engine() -> None:
    table = {"weight_decay": 0.1}
    one, two = Toy(), Toy()
    first = prepared(one, EmaTable(decay=0.9, warmup=True), **table)
    for update in range(5):
        make_update(first, update)
    second = prepared(two, EmaTable(decay=0.9, warmup=True), **table)
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    for update in range(5, UPDATES):
        assert torch.equal(make_update(first, update).grad_norm, make_update(second, update).grad_norm)
    ended = second.state_dict()
    assert all(torch.equal(value, ended[key]) for key, value in first.state_dict().items())


def test_moments_that_begin_anew_are_those_of_a_new_engine() -> None:
    """To the last bit, and the average goes on."""
    one, two = Toy(), Toy()
    first = prepared(one, EmaTable(decay=0.9), weight_decay=0.1)
    for update in range(5):
        make_update(first, update)
    first.restart_moments()
    kept = {key: value.clone() for key, value in first.state_dict().items()}
    second = prepared(two, EmaTable(decay=0.9), weight_decay=0.1)
    second.load_state_dict({key: value for key, value in kept.items() if not key.startswith("optimizer.")})
    for update in range(5, UPDATES):
        make_update(first, update)
        make_update(second, update)
    ended = second.state_dict()
    assert all(torch.equal(value, ended[key]) for key, value in first.state_dict().items())


def test_bf16_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    module = Toy()
    engine = TorchEngine(TorchEngine.Options(device="cpu", precision="bf16"))
    engine.setup()
    engine.prepare(module, module.network, OptimizerTable(learning_rate=1e-2), None)
    losses = []
    for _ in range(UPDATES):
        loss, _ = engine.forward(batch(0))
        assert module.output.dtype == torch.bfloat16
        engine.update(loss, 1e-2)
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {weight.dtype for weight in module.parameters()} == {torch.float32}


@pytest.mark.gpu
def test_gpu_makes_the_same_updates() -> None:
    cpu, gpu = Toy(), Toy()
    here = prepared(cpu, EmaTable(decay=0.9), learning_rate=1e-2)
    there = prepared(gpu, EmaTable(decay=0.9), device="cuda", learning_rate=1e-2)
    for update in range(UPDATES):
        make_update(here, update)
        make_update(there, update)
    with here.averaged(), there.averaged():
        for mine, theirs in zip(cpu.parameters(), gpu.parameters(), strict=True):
            assert theirs.is_cuda
            torch.testing.assert_close(mine, theirs.cpu(), rtol=1e-3, atol=1e-5)
    state = {key: value.cpu() for key, value in there.state_dict().items()}
    again = prepared(Toy(), EmaTable(decay=0.9), device="cuda", learning_rate=1e-2)
    again.load_state_dict(state)
    make_update(there, 0)
    make_update(again, 0)
    after = again.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in there.state_dict().items())
