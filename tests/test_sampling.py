"""Sampling against diffusers' DDIMScheduler and LCMScheduler, and noise that depends on the picture alone."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from diffusers.schedulers import scheduling_lcm
from torch import Tensor, nn

from distillkit.noise import Condition, PredictionType, Predictor, TablePath
from distillkit.sampling import generator, noise_for, sample, sample_consistency

BETAS = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square()


class TinyNetwork(nn.Module):
    """Depends on the sample, the time and the class."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2, 2, 3, padding=1)
        self.classes = nn.Embedding(4, 2)

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        scale = torch.sin(t / 300).view(-1, 1, 1, 1)
        return torch.tanh(self.mix(z) * scale + self.classes(labels)[:, :, None, None])


def call(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    return network(z, t, inputs["labels"])


def predictor(kind: PredictionType, spacing: str) -> Predictor:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Predictor(TinyNetwork(), TablePath((1 - BETAS).cumprod(0), spacing), kind, call)


@pytest.mark.parametrize("guidance", [None, 2.5])
@pytest.mark.parametrize(("spacing", "steps"), [("trailing", 4), ("trailing", 20), ("leading", 8)])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_samples_equal_diffusers(kind: PredictionType, spacing: str, steps: int, guidance: float | None) -> None:
    labels, null = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 3])
    scale = None if guidance is None else torch.full((3,), guidance)
    condition = Condition({"labels": labels}, {"labels": null}, scale)
    noise = noise_for(0, range(3), (2, 6, 6))
    ours = predictor(kind, spacing)
    result = sample(ours, noise, condition, steps)

    scheduler = DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1 if spacing == "leading" else 0,
        timestep_spacing=spacing,
        prediction_type=kind,
    )
    scheduler.set_timesteps(steps)
    z = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = ours.network(z, t.expand(3), labels)
            if guidance is not None:
                unconditional = ours.network(z, t.expand(3), null)
                output = unconditional + guidance * (output - unconditional)
            z = scheduler.step(output, t, z).prev_sample
    # An ε-network's first x̂ is some 80 times its output: float32 leaves about 1e-4 of that.
    torch.testing.assert_close(result, z, atol=2e-4, rtol=1e-4)
    assert not result.requires_grad
    assert ours.evaluations.count == steps


@pytest.mark.parametrize("guidance", [None, 2.5])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_consistency_samples_equal_diffusers(
    kind: PredictionType, steps: int, guidance: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, null = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 3])
    scale = None if guidance is None else torch.full((3,), guidance)
    noises = torch.stack([noise_for(0, range(3), (2, 6, 6), step) for step in range(steps)])
    ours = predictor(kind, "trailing")
    condition = Condition({"labels": labels}, {"labels": null}, scale)
    result = sample_consistency(ours, lambda step: noises[step], condition, steps)

    scheduler = LCMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        original_inference_steps=1000,
        prediction_type=kind,
    )
    scheduler.set_timesteps(steps)
    rest = iter(noises[1:])
    monkeypatch.setattr(scheduling_lcm, "randn_tensor", lambda *_, **__: next(rest))
    z = noises[0]
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = ours.network(z, t.expand(3), labels)
            if guidance is not None:
                unconditional = ours.network(z, t.expand(3), null)
                output = unconditional + guidance * (output - unconditional)
            z = scheduler.step(output, t, z).prev_sample
    torch.testing.assert_close(result, z, atol=2e-4, rtol=1e-4)
    assert next(rest, None) is None
    assert not result.requires_grad
    assert ours.evaluations.count == steps


def test_a_pictures_noise_depends_on_neither_batch_nor_global_state() -> None:
    whole = noise_for(7, range(6), (1, 4, 4))
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    torch.testing.assert_close(noise_for(7, [5, 2], (1, 4, 4)), whole[[5, 2]], rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(noise_for(8, range(6), (1, 4, 4)), whole)
    again = noise_for(7, range(6), (1, 4, 4), step=2)
    torch.testing.assert_close(noise_for(7, [5, 2], (1, 4, 4), step=2), again[[5, 2]], rtol=0, atol=0)
    assert not torch.equal(again, whole)
    assert not torch.equal(noise_for(7, range(6), (1, 4, 4), step=1), again)


def test_noise_is_standard_normal() -> None:
    noise = noise_for(0, range(100), (1, 16, 16))
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1) < 0.02


def test_generators_differ_by_every_part_and_its_order() -> None:
    parts: list[tuple[int | str, ...]] = [(1, 2), (2, 1), (12,), (1, "2"), (1, 2, "noise"), ("1, 2",)]
    draws = {torch.randint(2**62, (1,), generator=generator(*what)).item() for what in parts}
    assert len(draws) == len(parts)
    assert torch.equal(torch.randn(3, generator=generator(1, "a")), torch.randn(3, generator=generator(1, "a")))
