"""Squared errors, the pseudo-Huber distance and their weightings against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from distillkit_losses.losses import XL1, EpsMse, SquaredError, VMse, WeightedLoss, Weighting, XHuber, XMse

from distillkit.interfaces import JumpBatch
from distillkit.noise import Condition, Prediction
from distillkit.registry import load_registry

# From nearly clean to nearly noise: SNR from 99 to 1e-2, with one of exactly 1.
ALPHA = np.array([0.995, 0.9, 0.5**0.5, 0.4, 0.1])
SIGMA = np.sqrt(1 - ALPHA**2)
SNR = ALPHA**2 / SIGMA**2
SHAPE = (5, 3, 4, 4)
GAMMA = 4.0

# λ = log SNR; the weights as FACTS and the papers write them.
WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": np.ones_like,
    "truncated-snr": lambda snr: np.maximum(snr, 1),
    "snr-plus-one": lambda snr: snr + 1,
    "snr": lambda snr: snr,
    "log-truncated": lambda snr: np.maximum(np.log(snr), 1),
    "min-snr": lambda snr: np.minimum(snr, GAMMA),
}


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).float()


def column(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, 1, 1, 1)


Z, X0, GOAL = normal(0), normal(1), normal(2)


def per_sample(loss: type[WeightedLoss], weighting: str = "none", **more: float) -> np.ndarray:
    """The loss for one batch in which z, x̂ and what it should be have nothing to do with each other."""
    options = {"weighting": weighting, "gamma": GAMMA, **more}
    jumps = JumpBatch(tensor(Z), torch.zeros(2, 5), Condition())
    student = Prediction(tensor(Z), tensor(X0), tensor(column(ALPHA)), tensor(column(SIGMA)))
    values = loss(loss.Options.model_validate(options)).per_sample(jumps, student, tensor(GOAL))
    assert values.shape == (5,)
    return values.double().numpy()


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=2e-5)


def mean(squares: np.ndarray) -> np.ndarray:
    return squares.reshape(5, -1).mean(1)


def eps_of(x: np.ndarray) -> np.ndarray:
    return (Z - column(ALPHA) * x) / column(SIGMA)


def v_of(x: np.ndarray) -> np.ndarray:
    return column(ALPHA) * eps_of(x) - column(SIGMA) * x


def test_built_in_losses_are_registered() -> None:
    registry = load_registry()
    classes = {"x-mse": XMse, "v-mse": VMse, "eps-mse": EpsMse, "x-l1": XL1, "x-huber": XHuber}
    assert {name: registry.find("loss", name) for name in classes} == classes


def test_errors() -> None:
    close(per_sample(XL1), mean(abs(X0 - GOAL)))
    close(per_sample(XMse), mean((X0 - GOAL) ** 2))
    close(per_sample(VMse), mean((v_of(X0) - v_of(GOAL)) ** 2))
    close(per_sample(EpsMse), mean((eps_of(X0) - eps_of(GOAL)) ** 2))


@pytest.mark.parametrize("power", [0.5, 1.0])
@pytest.mark.parametrize("loss", [XMse, VMse, EpsMse])
def test_adaptive_weights(loss: type[SquaredError], power: float) -> None:
    error = per_sample(loss)
    close(per_sample(loss, "snr", adaptive=power), SNR * error / (error + 1e-3) ** power)


def test_adaptive_weights_are_constants_for_the_gradient() -> None:
    x0 = tensor(X0).requires_grad_()
    student = Prediction(tensor(Z), x0, tensor(column(ALPHA)), tensor(column(SIGMA)))
    jumps = JumpBatch(tensor(Z), torch.zeros(2, 5), Condition())
    XMse(XMse.Options(adaptive=0.5)).per_sample(jumps, student, tensor(GOAL)).sum().backward()
    assert x0.grad is not None
    expected = 2 * (X0 - GOAL) / 48 / column(per_sample(XMse) + 1e-3) ** 0.5
    np.testing.assert_allclose(x0.grad.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_every_weighting_is_here() -> None:
    """But "landing", which takes a jump (tests/test_matching.py)."""
    assert {*WEIGHTS, "landing"} == {*get_args(Weighting)}


@pytest.mark.parametrize(("c", "used"), [(None, 0.00054 * 48**0.5), (0.5, 0.5), (200.0, 200.0)])
def test_pseudo_huber_of_the_whole_samples_norm(c: float | None, used: float) -> None:
    squared = ((X0 - GOAL) ** 2).reshape(5, -1).sum(1)
    close(per_sample(XHuber, **({} if c is None else {"c": c})), np.sqrt(squared + used**2) - used)


def test_pseudo_huber_has_a_gradient_where_nothing_is_wrong() -> None:
    """A norm alone has none; far away its gradient has length 1, however far."""
    x0 = tensor(np.stack([GOAL[0], GOAL[1] + 1, GOAL[2] + 100])).requires_grad_()
    student = Prediction(tensor(Z[:3]), x0, tensor(column(ALPHA[:3])), tensor(column(SIGMA[:3])))
    jumps = JumpBatch(tensor(Z[:3]), torch.zeros(2, 3), Condition())
    XHuber(XHuber.Options()).per_sample(jumps, student, tensor(GOAL[:3])).sum().backward()
    assert x0.grad is not None
    torch.testing.assert_close(x0.grad.flatten(1).norm(dim=1), torch.tensor([0.0, 1.0, 1.0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTS)
@pytest.mark.parametrize("loss", [XMse, VMse, EpsMse])
def test_weightings(loss: type[WeightedLoss], weighting: str) -> None:
    close(per_sample(loss, weighting), per_sample(loss) * WEIGHTS[weighting](SNR))


@pytest.mark.parametrize("weighting", WEIGHTS)
def test_absolute_errors_take_the_root_of_a_weighting(weighting: str) -> None:
    close(per_sample(XL1, weighting), per_sample(XL1) * np.sqrt(WEIGHTS[weighting](SNR)))
    close(per_sample(XL1, "snr"), mean(abs(eps_of(X0) - eps_of(GOAL))))


@pytest.mark.parametrize("weighting", WEIGHTS)
def test_weightings_of_what_is_not_squared(weighting: str) -> None:
    close(per_sample(XHuber, weighting), per_sample(XHuber) * np.sqrt(WEIGHTS[weighting](SNR)))


def test_what_the_weightings_mean() -> None:
    """Each weighting of the x-error is another error, or made of others."""
    x, v, eps = per_sample(XMse), per_sample(VMse), per_sample(EpsMse)
    close(per_sample(XMse, "snr-plus-one"), v)
    close(v, (SNR + 1) * x)
    close(per_sample(XMse, "snr"), eps)
    close(per_sample(XMse, "truncated-snr"), np.maximum(x, eps))
    # For a real time on a variance-preserving path: v = x-error + ε-error.
    close(v, x + eps)


def test_gradient_reaches_only_the_student() -> None:
    x0 = tensor(X0).requires_grad_()
    student = Prediction(tensor(Z), x0, tensor(column(ALPHA)), tensor(column(SIGMA)))
    jumps = JumpBatch(tensor(Z), torch.zeros(2, 5), Condition())
    loss = XMse(XMse.Options(weighting="truncated-snr"))
    loss.per_sample(jumps, student, tensor(GOAL)).sum().backward()
    assert x0.grad is not None
    expected = 2 * (X0 - GOAL) * column(np.maximum(SNR, 1)) / np.prod(SHAPE[1:])
    np.testing.assert_allclose(x0.grad.numpy(), expected, rtol=1e-4, atol=1e-6)
