"""Trajectory matching: its solver against diffusers' in float64, target and losses against the algebra, state."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_dpmsolver_multistep
from distillkit_dsd.dsd import SelfTeacher
from distillkit_losses.losses import XL1, XMse
from distillkit_matching.trajectory_matching import TrajectoryMatching
from distillkit_pd.frozen_teacher import FrozenTeacher
from helpers.targets import ALPHA, ALPHA_BAR, PATH, SIGMA, predictor
from torch import Tensor, nn

from distillkit.interfaces import JumpBatch, Stage, TargetBatch, Teacher
from distillkit.noise import Condition, Prediction, PredictionType, TablePath
from distillkit.noise.predictor import read_x0
from distillkit.solver import SolverState

BATCH = 4

# diffusers hands numpy a tensor.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class DoublePath(TablePath):
    """The table in float64."""

    def __init__(self) -> None:
        super().__init__(torch.from_numpy(ALPHA_BAR))
        # One entry in front for the clean time −1, as TablePath has it.
        self._table = torch.from_numpy(np.stack([np.roll(table, 1) for table in (ALPHA, SIGMA)]))


DOUBLE = DoublePath()


def noise(seed: int = 0) -> Tensor:
    return torch.randn(BATCH, 1, 5, 5, generator=torch.Generator().manual_seed(seed))


# --- the solver ------------------------------------------------------------------------------------------------------


class Wide:
    """A module that gives float64 where it is asked for float32."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


@torch.no_grad()
def diffusers_sample(kind: PredictionType, network: nn.Module, z: Tensor, times: list[int], order: int) -> Tensor:
    """diffusers' DPM-Solver++ in float64 from noise z through `times` to clean data."""
    network, z = network.double(), z.double()
    with pytest.MonkeyPatch.context() as patch:
        for name, module in (("torch", torch), ("np", np)):
            patch.setattr(scheduling_dpmsolver_multistep, name, Wide(module))
        scheduler = DPMSolverMultistepScheduler(
            beta_start=0.0015,
            beta_end=0.0195,
            beta_schedule="scaled_linear",
            prediction_type=kind,
            algorithm_type="dpmsolver++",
            solver_order=order,
            final_sigmas_type="zero",
        )
        scheduler.set_timesteps(timesteps=times)
        assert scheduler.sigmas.dtype == torch.float64
        for t in scheduler.timesteps:
            z = scheduler.step(network(z, t.expand(len(z))), t, z).prev_sample
    return z


@torch.no_grad()
def walk(kind: PredictionType, network: nn.Module, z: Tensor, times: list[int], order: int) -> Tensor:
    """The same with distillkit's own solver."""
    network = network.double()
    state = SolverState.begin(z.double(), torch.full((len(z),), times[0]))
    for pair in pairwise([*times, -1]):
        t, s = torch.tensor(pair).view(2, 1).expand(2, len(z))
        x0 = read_x0(kind, network(state.z, t), state.z, *DOUBLE.alpha_sigma(t))
        state = state.step(x0, t, s, order, DOUBLE)
    return state.z


TIMES = {
    "16 trailing": PATH.grid(16)[:-1].tolist(),
    "20 trailing": PATH.grid(20)[:-1].tolist(),
    "uneven": [990, 700, 650, 200, 10],
    "two": [999, 499],
    "one": [800],
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES.keys())
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("order", [1, 2])
def test_solver_is_diffusers_own(order: int, kind: PredictionType, times: list[int]) -> None:
    expected = diffusers_sample(kind, predictor(0).network, noise(), times, order)
    error = (walk(kind, predictor(0).network, noise(), times, order) - expected).abs().max()
    # An ε-network's x̂ of untrained weights is of some 80 here.
    assert error < 1e-9 * expected.abs().max()
    if order == 2 and len(times) > 2:
        assert (walk(kind, predictor(0).network, noise(), times, 1) - expected).abs().max() > 1e-3


# --- the target ------------------------------------------------------------------------------------------------------


def teacher_sample(z: Tensor, steps: int, order: int = 2) -> np.ndarray:
    """What the teacher's solver makes of noise z in so many steps."""
    return diffusers_sample("v_prediction", predictor(0).network, z, PATH.grid(steps)[:-1].tolist(), order).numpy()


def frozen() -> Teacher:
    """Another network than the student."""
    teacher = FrozenTeacher(FrozenTeacher.Options(renew="never"))
    teacher.setup(predictor(0))
    return teacher


def begun(steps: int, stride: int = 2, order: int = 2) -> TrajectoryMatching:
    """A target that has begun a stage."""
    target = TrajectoryMatching(TrajectoryMatching.Options.model_validate({"order": order, "stride": stride}))
    target.start_stage(Stage(steps, 1, stride), PATH)
    return target


def jumps(steps: int, stride: int = 2) -> Tensor:
    """The times of every jump, the same for all samples, [jumps, stride + 1, B]."""
    return PATH.grid(steps).unfold(0, stride + 1, stride).unsqueeze(2).expand(-1, -1, BATCH)


def compute(target: TrajectoryMatching, teacher: Teacher, z: Tensor, times: Tensor) -> TargetBatch:
    """The target of jumps from z [B, C, H, W] at times [stride + 1, B]."""
    step = JumpBatch(z, times, Condition())
    with torch.no_grad():
        return target.compute(step, predictor(1)(z, times[0], step.condition), teacher, PATH)


def close(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("order", "steps", "stride"), [(1, 8, 2), (2, 8, 2), (2, 16, 4), (2, 4, 4), (2, 4, 1)])
def test_student_and_teacher_walk_their_own_ways(order: int, steps: int, stride: int) -> None:
    """From one noise: the student's DDIM steps from its own landings, the teacher's solver over the whole fine grid."""
    target, teacher, student = begun(steps, stride, order), frozen(), predictor(1)
    z, own = noise(), noise().double().numpy()
    for times in jumps(steps, stride):
        made = compute(target, teacher, z, times)
        t, s = int(times[0, 0]), int(times[-1, 0])
        with torch.no_grad():
            x0 = student(torch.from_numpy(own).float(), times[0], Condition()).x0.double().numpy()
        ratio = SIGMA[s] / SIGMA[t]
        # Where the target's x̂ lands, from where the student stands, is the teacher's state.
        landing = ratio * z.double().numpy() + (ALPHA[s] - ratio * ALPHA[t]) * made.x0.double().numpy()
        close(target.state_dict()["z"], landing)
        own = ratio * own + (ALPHA[s] - ratio * ALPHA[t]) * x0
        close(made.z_next, own)
        z = made.z_next
    # The last jump's target lands on clean data: it is the teacher's sample.
    close(made.x0, teacher_sample(noise(), steps, order))


def test_every_sample_begins_its_own_walk() -> None:
    """A staggered batch: samples 1 and 3 begin anew, at new noise, when 0 and 2 are halfway."""
    target, teacher = begun(8), frozen()
    late = torch.tensor([False, True, False, True])
    z, times = noise(), jumps(8)
    ends = {}
    for draw, (early, other) in enumerate([(0, 0), (1, 1), (2, 0), (3, 1), (0, 2), (1, 3)]):
        jump = torch.where(late, other, early)
        z = torch.where((jump == 0).view(-1, 1, 1, 1), noise(draw), z)
        made = compute(target, teacher, z, times[jump, :, torch.arange(BATCH)].T)
        z, ends[draw] = made.z_next, made.x0
    close(ends[3][~late], teacher_sample(noise(0), 8)[~late])
    close(ends[5][late], teacher_sample(noise(2), 8)[late])


def test_a_stage_has_a_grid_of_its_own() -> None:
    """The time at which walks begin."""
    target, teacher = begun(8), frozen()
    compute(target, teacher, noise(1), jumps(8)[0])
    target.start_stage(Stage(4, 1, 2), PATH)
    assert target.state_dict() == {}
    z = noise()
    for times in jumps(4):
        made = compute(target, teacher, z, times)
        z = made.z_next
    close(made.x0, teacher_sample(noise(), 4))


def test_goes_on_from_its_state() -> None:
    """In the middle of a walk, bit for bit."""
    whole, resumed, teacher = begun(8), begun(8), frozen()
    z = noise()
    for times in jumps(8)[:2]:
        z = compute(whole, teacher, z, times).z_next
    resumed.load_state_dict({key: value.clone() for key, value in whole.state_dict().items()})
    for times in jumps(8)[2:]:
        expected, found = (compute(target, teacher, z, times) for target in (whole, resumed))
        assert torch.equal(found.x0, expected.x0)
        z = expected.z_next
    # Before its first stage there is nothing to go on with.
    unused = TrajectoryMatching(TrajectoryMatching.Options())
    assert unused.state_dict() == {}
    unused.load_state_dict({})


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_evaluations(stride: int) -> None:
    """One per fine step, also of a teacher that is the student: they stand at different places."""
    student = predictor(1)
    teacher = SelfTeacher(SelfTeacher.Options())
    teacher.setup(student)
    target = begun(8, stride)
    compute(target, teacher, noise(), jumps(8, stride)[0])
    assert student.evaluations.count == stride == target.teacher_evaluations(Stage(8, 1), teacher)


# --- the losses of a landing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [0, 1, 3])
def test_landing_losses_are_the_error_of_the_landing(begin: int) -> None:
    """|landing − teacher's state|, and its gradient A·sign(x̂ − x̃)/n, of jumps from everywhere."""
    t, s = PATH.grid(4).tolist()[begin : begin + 2]
    factor = ALPHA[s] - SIGMA[s] / SIGMA[t] * ALPHA[t]
    times = torch.tensor([t, s]).view(2, 1).expand(2, BATCH)
    z, aim, x0 = noise(), noise(1), noise(2).requires_grad_()
    step, goal = JumpBatch(z, times, Condition()), aim
    student = Prediction(z, x0, *PATH.alpha_sigma(times[0]))
    error = factor * (noise(2) - aim).double().numpy()
    for loss, power in ((XL1(XL1.Options(weighting="landing")), 1), (XMse(XMse.Options(weighting="landing")), 2)):
        loss.setup(PATH)
        found = loss.per_sample(step, student, goal)
        np.testing.assert_allclose(found.detach().numpy(), (abs(error) ** power).mean((1, 2, 3)), rtol=1e-4)
    loss = XL1(XL1.Options(weighting="landing"))
    loss.setup(PATH)
    loss.per_sample(step, student, goal).sum().backward()
    assert x0.grad is not None
    np.testing.assert_allclose(x0.grad.numpy(), factor * np.sign(error) / 25, rtol=1e-4)
