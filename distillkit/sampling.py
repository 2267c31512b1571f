"""Turns noise into samples: DDIM along the path's own grid, and consistency sampling; and the random numbers for it.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch

from distillkit.noise import Condition, NoisePath, Prediction, Predictor


def generator(*what: int | str) -> torch.Generator:
    """A fresh CPU generator that depends on nothing but `what` it is for: `generator(seed, rank, update, "noise")`.

    Different parts, or the same in another order, give unrelated generators. The global random state stays as it is.
    """
    digest = hashlib.sha256(repr(what).encode()).digest()
    # 63 bits: what torch takes without a sign.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def noise_for(seed: int, indices: Sequence[int], shape: tuple[int, int, int], step: int = 0) -> torch.Tensor:
    """N(0, I) for the pictures `indices` of the series `seed`: [len(indices), C, H, W], float32, on the CPU.

    Picture i depends on (seed, i, step) and `shape` (C, H, W) alone, so every model, batch size and rank sees the same.
    Step 0 is where a sampler starts; one that adds noise before a later step counts on from there.
    """
    purpose = ("picture", step) if step else ("picture",)
    return torch.stack([torch.randn(shape, generator=generator(seed, i, *purpose)) for i in indices])


def walk(
    predict: Callable[[torch.Tensor, torch.Tensor, Condition], Prediction],
    path: NoisePath,
    noise: torch.Tensor,
    condition: Condition,
    steps: int,
) -> Iterator[torch.Tensor]:
    """The states on the way from noise to clean samples in `steps` DDIM steps (Song et al. 2021), no gradient.

    Yields the noise, scaled to what the path begins with, and where each step lands: `steps` + 1 states
    [B, C, H, W]. The last is not clamped.

    Args:
        predict: (z, t [B], condition) -> the prediction that the next step uses.
        path: the noise path, whose grid of `steps` steps is walked.
        noise: N(0, I), [B, C, H, W], on the network's device, as is the condition.

    Raises:
        GridError: the path has no grid of so many steps.
    """
    grid = path.grid(steps).to(noise.device)
    z = noise * path.initial_scale
    yield z
    for t, s in pairwise(grid.unsqueeze(1).expand(-1, len(z))):
        with torch.no_grad():
            z = path.ddim(z, predict(z, t, condition).x0, t, s)
        yield z


def sample(predictor: Predictor, noise: torch.Tensor, condition: Condition, steps: int) -> torch.Tensor:
    """The clean samples [B, C, H, W] at the end of a `walk` from noise [B, C, H, W]. Not clamped, no gradient.

    Raises:
        GridError: the path has no grid of so many steps.
    """
    [end] = deque(walk(predictor, predictor.path, noise, condition, steps), maxlen=1)
    return end


SIGMA_DATA = 0.5
"""σ_d of the boundary scalings, as LCM has it."""
TIMESTEP_SCALING = 10.0
"""s of the boundary scalings: what LCM multiplies a time with."""


def boundary_scalings(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """c_skip and c_out (float32) at times t: [B] -> two of [B, 1, 1, 1].

    c_skip = σ_d²/((st)² + σ_d²), c_out = st/√((st)² + σ_d²): c_skip = 1 and c_out = 0 at t = 0, and nearly the reverse
    at all others (Luo et al. 2023, "Latent Consistency Models", and diffusers' LCMScheduler). There is no σ_d in the
    numerator of c_out, as there is in Song et al. 2023: it multiplies x̂, and not an output of unit variance.
    """
    scaled = (TIMESTEP_SCALING * t).view(-1, 1, 1, 1)
    square = scaled.square() + SIGMA_DATA**2
    return (SIGMA_DATA**2 / square).float(), (scaled / square.sqrt()).float()


def consistency_of(prediction: Prediction, t: torch.Tensor) -> torch.Tensor:
    """f(z, t) = c_skip(t) z + c_out(t) x̂, [B, C, H, W], of a prediction at times t [B] (Song et al. 2023, equation 5).

    t must be times of the network's own, at least 0; at 0, f is z, whatever the network says.
    """
    skip, out = boundary_scalings(t)
    return skip * prediction.z + out * prediction.x0


def sample_consistency(
    predictor: Predictor, noise: Callable[[int], torch.Tensor], condition: Condition, steps: int
) -> torch.Tensor:
    """Jump from noise to clean samples [B, C, H, W] in `steps` steps (Song et al. 2023, algorithm 1), no gradient.

    Between two jumps noise of the next time is added: z = α_t f + σ_t ε. Times are the path's `consistency_times`. The
    result is not clamped.

    Args:
        predictor: the student.
        noise: step -> N(0, I) for it, [B, C, H, W], on the network's device: where it starts (0), scaled here to what
            the path begins with, and what is added before each later step.
        condition: the samples' conditions, on the network's device.
        steps: how many jumps.

    Raises:
        GridError: the path has not so many times.
    """
    path = predictor.path
    times = path.consistency_times(steps)
    z = noise(0) * path.initial_scale
    for step, t in enumerate(times.to(z.device).unsqueeze(1).expand(-1, len(z))):
        if step > 0:
            z = path.noised(z, noise(step), t)
        with torch.no_grad():
            z = consistency_of(predictor(z, t, condition), t)
    return z
