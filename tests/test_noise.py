"""The noise algebra against formulas written out in float64, and against diffusers' DDIMScheduler."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler
from torch import Tensor, nn

from distillkit.errors import GridError
from distillkit.noise import Condition, FlowPath, NoisePath, Prediction, PredictionType, Predictor, TablePath
from distillkit.noise.grids import SCHEDULERS_OWN
from distillkit.noise.predictor import read_x0
from distillkit.noise.table import AUTO_START_RATIO

T = 1000
# LDM's β, linear in the square root; ᾱ in float64.
ALPHA_BAR = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, T) ** 2)
ALPHA = np.append(np.sqrt(ALPHA_BAR), 1.0)  # the last entry is what index −1, the clean time, finds
SIGMA = np.append(np.sqrt(1 - ALPHA_BAR), 0.0)
STEPS = [1, 2, 4, 5, 8, 10, 16, 20, 25, 32, 48, 50, 64, 102]
SHAPE = (2, 3, 4, 4)
KINDS: tuple[PredictionType, ...] = get_args(PredictionType)


def table(spacing: str = "trailing", start: int | None = None) -> TablePath:
    return TablePath(torch.from_numpy(ALPHA_BAR), spacing, start)


def normal(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SHAPE)


def times(t: int) -> Tensor:
    return torch.full((SHAPE[0],), t)


def float32(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).float()


def close(actual: Tensor, expected: np.ndarray, tolerance: float = 2e-6) -> None:
    np.testing.assert_allclose(actual.numpy().astype(np.float64), expected, rtol=tolerance, atol=tolerance)


def ldm_scheduler(spacing: str, kind: str = "epsilon", times: int = T) -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=times,
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        timestep_spacing=spacing,
        steps_offset=1 if spacing == "leading" else 0,
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=kind,
    )


# --- α, σ and what follows from them ---------------------------------------------------------------------------------


def test_alpha_sigma_and_snr_of_a_table() -> None:
    path = table()
    t = torch.tensor([-1, 0, 1, 500, 999])
    assert path.alpha_sigma(t)[0].shape == (5, 1, 1, 1)
    close(path.alpha_sigma(t)[0].flatten(), ALPHA[t.numpy()], 1e-7)
    close(path.alpha_sigma(t)[1].flatten(), SIGMA[t.numpy()], 1e-7)
    expected = ALPHA_BAR / (1 - ALPHA_BAR)
    np.testing.assert_allclose(path.snr(torch.arange(T)).flatten().double(), expected, rtol=1e-6)
    assert path.alpha_sigma(torch.tensor([-1]))[0].item() == 1
    assert path.alpha_sigma(torch.tensor([-1]))[1].item() == 0


@pytest.mark.parametrize(("t", "s"), [(999, 749), (749, 0), (500, -1), (1, 0), (0, -1)])
def test_noising_and_a_ddim_step(t: int, s: int) -> None:
    path, x, noise, x0 = table(), normal(0), normal(1), normal(2)
    z = ALPHA[t] * x + SIGMA[t] * noise
    close(path.noised(float32(x), float32(noise), times(t)), z)
    eps = (z - ALPHA[t] * x0) / SIGMA[t]
    expected = ALPHA[s] * x0 + SIGMA[s] * eps  # the definition; the code has eps put in
    close(path.ddim(float32(z), float32(x0), times(t), times(s)), expected, 1e-5)


@pytest.mark.parametrize("spacing", SCHEDULERS_OWN)
def test_inverse_over_one_step_returns_x0(spacing: str) -> None:
    path, x0 = table(spacing), float32(normal(0))
    for t, s in pairwise(path.grid(64).tolist()):
        z = float32(normal(t))
        landed = path.ddim(z, x0, times(t), times(s))
        torch.testing.assert_close(path.invert_ddim(z, landed, times(t), times(s)), x0, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("t", "middle", "s"), [(999, 749, 499), (999, 983, 967), (499, 249, -1), (15, 7, -1)])
def test_inverse_over_two_steps_lands_where_they_do(t: int, middle: int, s: int) -> None:
    path, z, first, second = table(), normal(0), normal(1), normal(2)
    z_middle = ALPHA[middle] * first + SIGMA[middle] / SIGMA[t] * (z - ALPHA[t] * first)
    z_s = ALPHA[s] * second + SIGMA[s] / SIGMA[middle] * (z_middle - ALPHA[middle] * second)
    ratio = SIGMA[s] / SIGMA[t]
    expected = (z_s - ratio * z) / (ALPHA[s] - ratio * ALPHA[t])
    target = path.invert_ddim(float32(z), float32(z_s), times(t), times(s))
    close(target, expected, 5e-4 if s == 967 else 1e-5)
    close(path.ddim(float32(z), target, times(t), times(s)), z_s, 1e-5)
    if s == -1:  # the last pair: the second x̂ itself
        close(target, second)


class Flow(NoisePath):
    """Flow matching: α = 1 − t, σ = t."""

    clean = 0.0

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return (1 - t).view(-1, 1, 1, 1), t.view(-1, 1, 1, 1)

    def grid(self, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1)

    def with_grid(self, spacing: str, start: object = None, prediction: object = None) -> Flow:
        return self


class Edm(Flow):
    """EDM: α = 1, σ = t."""

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones(len(t), 1, 1, 1), t.view(-1, 1, 1, 1)


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.75), (0.75, 0.25), (0.25, 0.0)])
def test_ddim_is_an_euler_step_on_other_paths(t: float, s: float) -> None:
    z, x0 = normal(0), normal(1)
    at, to = torch.full((2,), t), torch.full((2,), s)
    velocity = (z - x0) / t  # flow: u = ε − x with z = (1 − t)x + tε; EDM: dz/dσ = (z − x̂)/σ: the same expression
    for path in (Flow(), Edm()):
        landed = path.ddim(float32(z), float32(x0), at, to)
        close(landed, z + (s - t) * velocity)
        close(path.invert_ddim(float32(z), landed, at, to), x0, 1e-5)


# --- ε, v and x ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 300, 900])
def test_views_of_a_prediction(t: int) -> None:
    x, eps, other = normal(0), normal(1), normal(2)
    a, s = ALPHA[t], SIGMA[t]
    z, v = a * x + s * eps, a * eps - s * x
    alpha, sigma = table().alpha_sigma(times(t))
    tolerance = 1e-6 / min(a, s)
    outputs: dict[PredictionType, np.ndarray] = {"epsilon": eps, "v_prediction": v, "sample": x}
    for kind, output in outputs.items():
        x0 = read_x0(kind, float32(output), float32(z), alpha, sigma)
        prediction = Prediction(float32(z), x0, alpha, sigma)
        close(prediction.x0, x, tolerance)
        close(prediction.eps, eps, 2 * tolerance)
        close(prediction.v, v, 2 * tolerance)
    other_eps = (z - a * other) / s
    close(prediction.eps_of(float32(other)), other_eps, 2 * tolerance)
    close(prediction.v_of(float32(other)), a * other_eps - s * other, 2 * tolerance)


# --- against diffusers -----------------------------------------------------------------------------------------------


# diffusers' DPM-Solver has not kept up with numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SCHEDULERS_OWN)
def test_grids_are_diffusers_grids(spacing: str, steps: int) -> None:
    scheduler = ldm_scheduler(spacing)
    if spacing == "linspace":
        # DDIMScheduler's has a last step at t = 0, where there is no noise to take away.
        scheduler = DPMSolverMultistepScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    expected = scheduler.timesteps.tolist()
    grid = table(spacing).grid(steps)
    assert grid.dtype == torch.int64
    assert grid.tolist() == [*expected, -1]


@pytest.mark.parametrize("steps", STEPS)
def test_a_start_time_is_a_shorter_table(steps: int) -> None:
    for spacing in SCHEDULERS_OWN[:2]:
        scheduler = ldm_scheduler(spacing, times=896)
        scheduler.set_timesteps(steps)
        assert table(spacing, start=895).grid(steps).tolist() == [*scheduler.timesteps.tolist(), -1]
    assert table(start=0).grid(1).tolist() == [0, -1]
    assert table("linspace", start=600).grid(3).tolist() == [600, 400, 200, -1]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8, 10, 20, 25, 50])
def test_ddim_follows_diffusers_where_steps_divide_the_table(steps: int, spacing: str, kind: PredictionType) -> None:
    scheduler = ldm_scheduler(spacing, kind)
    scheduler.set_timesteps(steps)
    path = TablePath(scheduler.alphas_cumprod, spacing)
    generator = torch.Generator().manual_seed(steps)
    ours = theirs = torch.randn(SHAPE, generator=generator)
    for t, s in pairwise(path.grid(steps).tolist()):
        output = torch.randn(SHAPE, generator=generator)
        theirs = scheduler.step(output, t, theirs).prev_sample
        x0 = read_x0(kind, output, ours, *path.alpha_sigma(times(t)))
        ours = path.ddim(ours, x0, times(t), times(s))
        # diffusers' float32 1 − ᾱ costs it digits where ᾱ is nearly 1.
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * float(theirs.abs().max()))


# --- grids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", SCHEDULERS_OWN)
def test_every_grid_falls_to_clean(spacing: str) -> None:
    path = table(spacing)
    for steps in range(1, 501):
        grid = path.grid(steps)
        assert len(grid) == steps + 1
        assert grid[-1] == path.clean == -1
        assert (grid.diff() < 0).all()
        assert grid[-2] >= 0
        assert grid[0] <= path.start


@pytest.mark.parametrize("start", [None, 895])
def test_trailing_grids_nest_where_steps_divide(start: int | None) -> None:
    path = table(start=start)
    for steps in (50, 20, 10, 4) if start is None else (64, 32, 16, 8, 4, 2):
        assert path.grid(steps)[::2].tolist() == path.grid(steps // 2).tolist()


def test_auto_start_is_where_an_epsilon_network_can_still_be_read() -> None:
    path = table()
    ratio = SIGMA[:T] / ALPHA[:T]
    assert ratio[-1] == pytest.approx(84, abs=0.5)  # what is avoided
    start = path.auto_start()
    assert 800 <= start <= 900  # where LDM's table gave the best few-step scores
    assert ratio[start] <= AUTO_START_RATIO
    assert ratio[start + 32] > AUTO_START_RATIO
    assert (start + 1) % 32 == 0
    nested = path.with_grid("trailing", start)
    assert nested.grid(32)[0] == start
    assert path.auto_start(ratio=1e9) == 991
    # A short table, of which hardly any time is usable, is not cut to nothing.
    assert TablePath(torch.from_numpy(ALPHA_BAR[:20])).auto_start() == 19


def test_grid_errors() -> None:
    with pytest.raises(GridError, match=r"^grid\.start: must be 0 to 999, the model's times \(got 1000\)$"):
        table(start=1000)
    with pytest.raises(GridError, match=r"^grid\.start: must be 0 to 999, the model's times \(got -1\)$"):
        table(start=-1)
    for steps in (0, 501):
        with pytest.raises(GridError, match=rf"^a grid of {steps} steps needs 1 to 500 steps: the noise path has 500"):
            table(start=499).grid(steps)
    with pytest.raises(GridError, match=r"^a leading grid of 1000 steps would begin at 1000, past 999$"):
        table("leading").grid(1000)


# --- predictors ------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    """Depends on z, on the time and on the class; computes in bfloat16 if asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.3, -0.7, 1.1]))
        self.shift = nn.Parameter(torch.tensor([0.0, 0.5, -0.25, 2.0]))
        self.batches: list[int] = []

    def forward(self, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        self.batches.append(len(z))
        scale = self.scale[t % 3].view(-1, 1, 1, 1)
        return (scale * z + self.shift[labels].view(-1, 1, 1, 1)).to(self.scale.dtype)


def call(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    output: Tensor = network(z, t, inputs["labels"])
    return output


LABELS, NULL, TIMES = torch.tensor([0, 2]), torch.tensor([3, 3]), torch.tensor([700, 400])


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_mixes_the_two_predictions(kind: PredictionType) -> None:
    predictor = Predictor(Network(), table(), kind, call)
    z = torch.randn(SHAPE)
    scale = torch.tensor([3.0, 1.0])
    guided = predictor(z, TIMES, Condition({"labels": LABELS}, {"labels": NULL}, scale))
    assert predictor.evaluations.count == 1
    assert predictor.network.batches == [4]  # one batch of twice the size
    with_class = predictor(z, TIMES, Condition({"labels": LABELS}, {"labels": NULL})).x0
    without = predictor(z, TIMES, Condition({"labels": NULL})).x0
    assert predictor.evaluations.count == 3
    assert predictor.network.batches[1:] == [2, 2]
    expected = without + scale.view(-1, 1, 1, 1) * (with_class - without)
    torch.testing.assert_close(guided.x0, expected, rtol=1e-4, atol=1e-5)
    # s = 1 is no guidance.
    torch.testing.assert_close(guided.x0[1], with_class[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(guided.x0[0], with_class[0], atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_guidance_is_mixed_in_float32(kind: PredictionType) -> None:
    """Under autocast a network's outputs are bfloat16, of which a mixture loses what guidance is about."""
    torch.manual_seed(0)
    network = nn.Conv2d(3, 3, 1)

    def shifted(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        output: Tensor = network(z + inputs["labels"].view(-1, 1, 1, 1))
        return output

    path, z, scale = table(), torch.randn(SHAPE), torch.tensor([3.0, 1.5])
    condition = Condition({"labels": LABELS}, {"labels": NULL}, scale)
    with torch.autocast("cpu", torch.bfloat16):
        guided = Predictor(network, path, kind, shifted)(z, TIMES, condition)
        halves = shifted(network, torch.cat([z, z]), TIMES, {"labels": torch.cat([LABELS, NULL])})
    assert halves.dtype == torch.bfloat16
    with_class, without = halves.float().chunk(2)
    mixed = without + scale.view(-1, 1, 1, 1) * (with_class - without)
    assert torch.equal(guided.x0, read_x0(kind, mixed, z, *path.alpha_sigma(TIMES)))


def test_guidance_needs_a_null_condition() -> None:
    predictor = Predictor(Network(), table(), "epsilon", call)
    with pytest.raises(ValueError, match="null condition"):
        predictor(torch.randn(SHAPE), TIMES, Condition({"labels": LABELS}, None, torch.ones(2)))


def test_a_copy_is_frozen_and_apart_but_counted_together() -> None:
    predictor = Predictor(Network(), table(), "epsilon", call)
    z, condition = torch.randn(SHAPE), Condition({"labels": LABELS})
    twin = predictor.frozen_copy()
    before = twin(z, TIMES, condition).x0
    with torch.no_grad():
        predictor.network.scale.mul_(2)
    assert torch.equal(twin(z, TIMES, condition).x0, before)
    assert predictor(z, TIMES, condition).x0.requires_grad
    assert not before.requires_grad
    assert not twin.network.training
    assert predictor.evaluations.count == twin.evaluations.count == 3


def test_x0_is_float32_whatever_the_network_computes_in() -> None:
    predictor = Predictor(Network().bfloat16(), table(), "v_prediction", call)
    assert predictor(torch.randn(SHAPE), TIMES, Condition({"labels": LABELS})).x0.dtype == torch.float32


def test_a_condition_is_mapped_whole() -> None:
    condition = Condition({"labels": LABELS}, {"labels": NULL}, torch.tensor([1.0, 2.0]))
    second = condition.map(lambda tensor: tensor[1:])
    assert second.inputs["labels"].tolist() == [2]
    assert second.null is not None
    assert second.null["labels"].tolist() == [3]
    assert second.guidance is not None
    assert second.guidance.tolist() == [2.0]
    assert Condition().map(lambda tensor: tensor[1:]) == Condition()


@pytest.mark.parametrize("start", [None, 831, 250])
def test_consistency_times_are_lcms(start: int | None) -> None:
    """At every number of steps, whatever divides what."""
    path = table(start=start)
    count = path.start + 1
    scheduler = LCMScheduler(num_train_timesteps=count, original_inference_steps=count)
    for steps in (*range(1, 101), count - 1, count):
        scheduler.set_timesteps(steps)
        assert path.consistency_times(steps).tolist() == scheduler.timesteps.tolist(), steps
    with pytest.raises(GridError, match=f"^a grid of {count + 1} steps needs 1 to {count} steps: "):
        path.consistency_times(count + 1)


def test_consistency_times_are_a_trailing_grids_where_steps_divide_the_times() -> None:
    for steps in (1, 2, 4, 5, 8, 10):
        assert table().consistency_times(steps).tolist() == table().grid(steps)[:-1].tolist()


def test_an_average_of_16_bits_follows_as_one_of_32_does() -> None:
    """It moves by less than 16 bits can tell, and goes on from its state."""
    low, high, student = (Predictor(nn.Linear(3, 2), table(), "epsilon", call) for _ in range(3))
    student.network.bfloat16()
    low.network.bfloat16()
    high.load_state_dict(low.state_dict())
    for _ in range(100):
        low.ema_update(student, 0.9995, torch.tensor(1.0))
        high.ema_update(student, 0.9995, torch.tensor(1.0))
    mine, theirs = low.network.weight, high.network.weight
    assert (mine.dtype, theirs.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(mine, theirs.bfloat16())
    again = Predictor(nn.Linear(3, 2).bfloat16(), table(), "epsilon", call)
    again.load_state_dict({key: value.clone() for key, value in low.state_dict().items()})
    for one in (again, low):
        one.ema_update(student, 0.9995, torch.tensor(1.0))
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in low.state_dict().items())


def test_inputs_have_the_networks_precision_and_times_their_own() -> None:
    seen: dict[str, torch.dtype] = {}

    def look(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        seen.update({"z": z.dtype, "t": t.dtype} | {key: value.dtype for key, value in inputs.items()})
        return z

    predictor = Predictor(Network().bfloat16(), table(), "epsilon", look)
    told = {"labels": LABELS, "words": torch.randn(2, 3, 4), "guidance": torch.ones(2)}
    predictor(torch.randn(SHAPE), TIMES, Condition(told))
    expected = {"z": torch.bfloat16, "t": TIMES.dtype, "labels": LABELS.dtype, "words": torch.bfloat16}
    assert seen == expected | {"guidance": torch.float32}


def test_an_average_follows() -> None:
    twins = [Predictor(nn.Linear(3, 2), table(), "epsilon", lambda *_: torch.zeros(1)) for _ in range(2)]
    before, other = (torch.cat([weight.detach().flatten() for weight in one.network.parameters()]) for one in twins)
    twins[0].ema_update(twins[1], 0.75, torch.tensor(0.0))
    still = torch.cat([weight.detach().flatten() for weight in twins[0].network.parameters()])
    assert torch.equal(still, before)  # the update was skipped
    twins[0].ema_update(twins[1], 0.75, torch.tensor(1.0))
    after = torch.cat([weight.detach().flatten() for weight in twins[0].network.parameters()])
    torch.testing.assert_close(after, 0.75 * before + 0.25 * other)


def test_a_rounded_average_goes_on_from_its_state() -> None:
    """Of 16 bits: it is saved as what it was rounded from, so that a resumed run is the same run."""
    student = Predictor(Network(), table(), "v_prediction", call)
    average = student.frozen_copy()
    average.network.bfloat16()
    with torch.no_grad():
        for weight in student.network.parameters():
            weight.add_(0.3)
    average.ema_update(student, 0.99, torch.tensor(1.0))
    state = {name: weight.clone() for name, weight in average.state_dict().items()}
    again = student.frozen_copy()
    again.network.bfloat16()
    again.load_state_dict(state)
    for one in (average, again):
        for _ in range(5):
            one.ema_update(student, 0.99, torch.tensor(1.0))
    pairs = zip(average.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(one, two) for (name, one), (other, two) in pairs)
    assert {weight.dtype for weight in again.network.parameters()} == {torch.bfloat16}
    assert all(weight.dtype == torch.float32 for weight in again.state_dict().values())


def test_a_teachers_own_grids_begin_at_the_noise() -> None:
    """But not where x̂ would be all error, as at the end of a cosine table."""
    ldm = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    assert TablePath(ldm.alphas_cumprod, start=831).teacher_grid("trailing").grid(2)[0] == 999
    cosine = TablePath(DDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod, start=700)
    start = cosine.teacher_grid("karras-8").start
    alpha, sigma = cosine.alpha_sigma(torch.tensor([start, start + 1]))
    before, after = (sigma / alpha).log().flatten().tolist()
    assert before <= 5.1 < after
    assert TablePath(cosine.alphas_cumprod).teacher_grid("angle").start == 999
    assert FlowPath().teacher_grid("angle").spacing == "angle"
    late = {kind: TablePath(ldm.alphas_cumprod).with_grid("karras-8", "late", kind) for kind in ("epsilon", "sample")}
    assert {kind: path.start for kind, path in late.items()} == {"epsilon": 447, "sample": 735}
    assert FlowPath().with_grid("angle", "late").start == FlowPath().start


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_any_steps_grids_are_on_every_table(prediction: PredictionType, zero_snr: bool) -> None:
    """Those of `any-step`, of student and teacher, have a time for each step, also where α falls to 0."""
    for betas in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        scheduler = DDIMScheduler(beta_schedule=betas, rescale_betas_zero_snr=zero_snr)
        late = TablePath(scheduler.alphas_cumprod).with_grid("karras-8", "late", prediction)
        noise = TablePath(scheduler.alphas_cumprod).teacher_grid("karras-8") if zero_snr else late
        for path in (late, late.teacher_grid("karras-8"), noise):
            for steps in (1, 2, 3, 4, 5, 6, 8):
                grid = path.grid(steps)
                assert len(grid) == steps + 1
                assert (grid[1:] < grid[:-1]).all()
                alpha, sigma = path.alpha_sigma(grid[:1])
                assert 0 < (alpha / sigma).item() < 1
