"""Turns noise into samples with DDIM, consistency sampling or a scheduler of diffusers', and draws the random numbers.

Shapes: B batch, C H W sample.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch

from distillkit.noise import Condition, NoisePath, Prediction, Predictor
from distillkit.solver import Scheduler, SolverState


def generator(*what: int | str) -> torch.Generator:
    """A new CPU generator, seeded by its arguments alone: `generator(seed, rank, update, "noise")`.

    Other arguments, or the same in another order, give an unrelated generator. Does not change the global random state.
    """
    digest = hashlib.sha256(repr(what).encode()).digest()
    # 63 bits, because torch's seeds are signed.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def noise_for(seed: int, indices: Sequence[int], shape: tuple[int, int, int], step: int = 0) -> torch.Tensor:
    """N(0, I) for the pictures `indices` of the series `seed`: [len(indices), C, H, W], float32, on the CPU.

    The noise of picture i depends on (seed, i, step) and `shape` (C, H, W) alone, so it is the same for every model,
    batch size and rank. Step 0 is a sampler's initial noise; noise that is added before later steps has 1, 2, ….
    """
    purpose = ("picture", step) if step else ("picture",)
    return torch.stack([torch.randn(shape, generator=generator(seed, i, *purpose)) for i in indices])


def walk(
    predict: Callable[[torch.Tensor, torch.Tensor, Condition, torch.Tensor], Prediction],
    path: NoisePath,
    noise: torch.Tensor,
    condition: Condition,
    steps: int,
    order: int = 1,
) -> Iterator[torch.Tensor]:
    """Yield the states of sampling from noise to clean samples. Computes no gradient.

    These are `steps` + 1 states [B, C, H, W]: the noise, scaled to the start of the path, and the result of each step.
    The last one is not clamped.

    Args:
        predict: (z [B, C, H, W], t [B], condition, step size [B]) -> the prediction; a `Predictor`, say.
        path: the noise path; its grid of `steps` steps gives the times.
        noise: N(0, I), [B, C, H, W], on the network's device.
        condition: the samples' conditions, on the network's device.
        steps: number of steps.
        order: of the solver: 1 is DDIM (Song et al. 2021), 2 DPM-Solver++(2M) (Lu et al. 2022).

    Raises:
        GridError: the path has no grid of `steps` steps.
    """
    grid = path.grid(steps).to(noise.device).unsqueeze(1).expand(-1, len(noise))
    state = SolverState.begin(noise * path.initial_scale, grid[0])
    step_size = torch.full((len(noise),), 1 / steps, device=noise.device)
    yield state.z
    for t, s in pairwise(grid):
        with torch.no_grad():
            state = state.step(predict(state.z, t, condition, step_size).x0, t, s, order, path)
        yield state.z


def sample(predictor: Predictor, noise: torch.Tensor, condition: Condition, steps: int) -> torch.Tensor:
    """Sample with DDIM: noise [B, C, H, W] -> clean samples [B, C, H, W], not clamped. Computes no gradient.

    Raises:
        GridError: the path has no grid of `steps` steps.
    """
    [end] = deque(walk(predictor, predictor.path, noise, condition, steps), maxlen=1)
    return end


def sample_with(predictor: Predictor, scheduler: Scheduler, noise: torch.Tensor, condition: Condition) -> torch.Tensor:
    """Sample with a scheduler of diffusers': noise [B, C, H, W] -> clean samples, as a stock pipeline does.

    Computes no gradient. The samples are not clamped.
    """
    z: torch.Tensor = noise * scheduler.init_noise_sigma
    step_size = torch.full((len(z),), 1 / len(scheduler.timesteps), device=z.device)
    for t in scheduler.timesteps:
        with torch.no_grad():
            times = t.to(z.device).expand(len(z))
            output = predictor.output(scheduler.scale_model_input(z, t), times, condition, step_size)
        z = scheduler.step(output, t, z).prev_sample
    return z


SIGMA_DATA = 0.5
"""σ_d of the boundary scalings, as in LCM."""
TIMESTEP_SCALING = 10.0
"""s of the boundary scalings: LCM's factor on the time."""


def boundary_scalings(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """c_skip and c_out (float32) at times t: [B] -> two of [B, 1, 1, 1].

    c_skip = σ_d²/((st)² + σ_d²), c_out = st/√((st)² + σ_d²): c_skip = 1 and c_out = 0 at t = 0, and nearly the
    reverse at all other times (Luo et al. 2023, "Latent Consistency Models", and diffusers' LCMScheduler). Unlike in
    Song et al. 2023, c_out has no σ_d in its numerator, because it multiplies x̂ and not an output of unit variance.
    """
    scaled = (TIMESTEP_SCALING * t).view(-1, 1, 1, 1)
    square = scaled.square() + SIGMA_DATA**2
    return (SIGMA_DATA**2 / square).float(), (scaled / square.sqrt()).float()


def consistency_of(prediction: Prediction, t: torch.Tensor) -> torch.Tensor:
    """f(z, t) = c_skip(t) z + c_out(t) x̂, [B, C, H, W], of a prediction at times t [B] (Song et al. 2023, equation 5).

    The times must be times of the network, at least 0. At 0, f is z for any prediction.
    """
    skip, out = boundary_scalings(t)
    return skip * prediction.z + out * prediction.x0


def sample_consistency(
    predictor: Predictor, noise: Callable[[int], torch.Tensor], condition: Condition, steps: int
) -> torch.Tensor:
    """Multistep consistency sampling (Song et al. 2023, algorithm 1): clean samples [B, C, H, W]. Computes no gradient.

    Each step jumps to clean data; before the next step, noise is added: z = α_t f + σ_t ε. The times are the path's
    `consistency_times`. The result is not clamped.

    Args:
        predictor: the student.
        noise: step -> N(0, I), [B, C, H, W], on the network's device: the initial noise (step 0), which is scaled here
            to the start of the path, and the noise that is added before each later step.
        condition: the samples' conditions, on the network's device.
        steps: number of jumps.

    Raises:
        GridError: the path has fewer than `steps` times.
    """
    path = predictor.path
    times = path.consistency_times(steps)
    z = noise(0) * path.initial_scale
    # Every step is a jump to the end.
    step_size = torch.ones(len(z), device=z.device)
    for step, t in enumerate(times.to(z.device).unsqueeze(1).expand(-1, len(z))):
        if step > 0:
            z = path.noised(z, noise(step), t)
        with torch.no_grad():
            z = consistency_of(predictor(z, t, condition, step_size), t)
    return z
