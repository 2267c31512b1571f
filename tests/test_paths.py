"""Flow matching and EDM: their paths against diffusers' schedulers, and what the parts of a distillation do on them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from distillkit_consistency.target import Consistency
from distillkit_diffusers.families import edm, flow
from distillkit_dsd.dsd import MergedSteps
from distillkit_dsd.trajectory import Trajectory
from distillkit_losses.losses import EpsMse, FlowMse, VMse, Weighting, XMse, landing, weight
from torch import Tensor, nn

from distillkit.errors import DistillkitError, GridError
from distillkit.interfaces import JumpBatch, ModelSpec, Stage
from distillkit.noise import Condition, EdmPath, FlowPath, NoisePath, Prediction, Predictor, TablePath
from distillkit.noise.predictor import read_x0
from distillkit.sampling import sample, sample_consistency

SHAPE = (2, 3, 4, 4)
FLOW, EDM = FlowPath(), EdmPath()
PATHS: dict[str, NoisePath] = {
    "flow": FLOW,
    "flow, shift 3": FlowPath(shift=3.0),
    "EDM": EDM,
    "exponential": EdmPath(rho=None),
}


class Network(nn.Module):
    """Some function of z and t whose outputs are not small."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        output: Tensor = torch.tanh(self.layer(z) + t.float().view(-1, 1, 1, 1) / 500)
        return output


def call(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    output: Tensor = network(z, t)
    return output


def flow_config(**options: Any) -> dict[str, Any]:
    return dict(FlowMatchEulerDiscreteScheduler(**options).config) | {"_class_name": "FlowMatchEulerDiscreteScheduler"}


def noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


# --- flow matching against diffusers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 4, 7, 28])
def test_flow_grids_are_the_schedulers(shift: float, steps: int) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    path = flow.read_path(flow_config(shift=shift), "linspace")
    grid = path.grid(steps)
    torch.testing.assert_close(path.alpha_sigma(grid)[1].flatten(), scheduler.sigmas, rtol=0, atol=1e-7)
    torch.testing.assert_close(grid[:-1].float(), scheduler.timesteps, rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", [256, 1024, 4096])
def test_dynamic_shift_is_that_of_the_images_size(length: int) -> None:
    """Flux's pipeline hands its scheduler 1 − i/S and μ."""
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 5, 5), mu=calculate_shift(length))
    path = flow.read_path(flow_config(use_dynamic_shifting=True, shift=3.0), "trailing", length)
    torch.testing.assert_close(path.alpha_sigma(path.grid(5))[1].flatten(), scheduler.sigmas, rtol=0, atol=1e-6)


def test_linear_dynamic_shift() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type="linear")
    scheduler.set_timesteps(5, mu=calculate_shift(1024))
    config = flow_config(use_dynamic_shifting=True, time_shift_type="linear")
    path = flow.read_path(config, "linspace", 1024)
    torch.testing.assert_close(path.alpha_sigma(path.grid(5))[1].flatten(), scheduler.sigmas, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ddim_on_the_flow_path_is_the_schedulers_step(shift: float) -> None:
    network, path = Network(), flow.read_path(flow_config(shift=shift), "linspace")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(6)
    z = noise()
    for t in scheduler.timesteps:
        with torch.no_grad():
            z = scheduler.step(network(z, t.expand(len(z))), t, z).prev_sample
    torch.testing.assert_close(
        sample(Predictor(network, path, "flow", call), noise(), Condition(), 6), z, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 12.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 50])
def test_an_exported_scheduler_has_the_trained_flow_grid(shift: float, steps: int) -> None:
    """Its config alone, for a pipeline that leaves grids to its scheduler."""
    config = flow_config(shift=shift)
    path = flow.read_path(config, "linspace").with_grid("trailing")
    written = flow.make_scheduler(path, config, steps, "linspace")
    again = FlowMatchEulerDiscreteScheduler.from_config(dict(written.config))
    again.set_timesteps(steps)
    torch.testing.assert_close(again.sigmas, path.alpha_sigma(path.grid(steps))[1].flatten(), rtol=0, atol=1e-6)
    # And whoever distils the export finds the path that it was trained on.
    read = flow.read_path(dict(written.config) | {"_class_name": type(written).__name__}, "linspace")
    for other in (2, 5, 9):
        torch.testing.assert_close(read.grid(other), path.grid(other), rtol=0, atol=1e-9)


def test_what_a_flow_scheduler_cannot_say() -> None:
    path = FlowPath(shift=40.0)
    with pytest.raises(DistillkitError, match=r"^model\.scheduler: diffusers' config cannot say a trailing grid of 50"):
        flow.make_scheduler(path, flow_config(shift=40.0), 50, "linspace")
    with pytest.raises(
        DistillkitError,
        match=r'^grid\.spacing: is "linspace", and the model\'s pipeline passes its scheduler "trailing"',
    ):
        flow.read_path(flow_config(), "trailing").with_grid("linspace")


@pytest.mark.parametrize(
    ("config", "length", "message"),
    [
        (
            flow_config(use_dynamic_shifting=True),
            None,
            "model.scheduler.use_dynamic_shifting: is set, and the family has no images of tokens",
        ),
        (
            flow_config(use_dynamic_shifting=True, time_shift_type="linear", base_shift=0.0),
            256,
            "model.scheduler.base_shift: a linear shift from 0 at 256 tokens to 1.15 at 4096 is 0 for images of 256; "
            "expected more than 0",
        ),
    ],
)
def test_flow_schedulers_that_are_not_read(config: dict[str, Any], length: int | None, message: str) -> None:
    with pytest.raises(DistillkitError) as caught:
        flow.read_path(config, "linspace", length)
    assert str(caught.value) == message


# --- EDM against diffusers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["karras", "exponential"])
@pytest.mark.parametrize("steps", [2, 4, 7, 18])
def test_edm_grids_are_the_schedulers(schedule: Any, steps: int) -> None:
    scheduler = EDMEulerScheduler(sigma_schedule=schedule)
    scheduler.set_timesteps(steps)
    path = edm.read_path(dict(scheduler.config))
    torch.testing.assert_close(path.alpha_sigma(path.grid(steps))[1].flatten(), scheduler.sigmas, rtol=1e-6, atol=0)


def test_whole_edm_times_are_the_training_schedule() -> None:
    scheduler = EDMEulerScheduler()
    torch.testing.assert_close(
        EDM.alpha_sigma(torch.arange(1000, -1, -1))[1].flatten(), scheduler.sigmas[:-1], rtol=1e-6, atol=0
    )
    assert EDM.alpha_sigma(torch.tensor([EDM.clean]))[1].item() == 0


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("schedule", ["karras", "exponential"])
def test_ddim_on_the_edm_path_is_the_schedulers_step(kind: Any, schedule: Any) -> None:
    network = Network()
    scheduler = EDMEulerScheduler(prediction_type=kind, sigma_schedule=schedule)
    config = dict(scheduler.config)
    path = edm.read_path(config)

    def forward(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return edm.preconditioned(lambda z, t, return_dict: (network(z, t),), z, path.alpha_sigma(t)[1], config, inputs)

    scheduler.set_timesteps(6)
    z = noise() * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        with torch.no_grad():
            output = network(scheduler.scale_model_input(z, t), t.expand(len(z)))
            z = scheduler.step(output, t, z).prev_sample
    assert z.abs().max() > 0.1
    ours = sample(Predictor(network, path, "sample", forward), noise(), Condition(), 6)
    torch.testing.assert_close(ours, z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rho", [7.0, None])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_an_exported_scheduler_has_the_trained_edm_grid(rho: float | None, steps: int) -> None:
    config = dict(EDMEulerScheduler(sigma_schedule="karras" if rho else "exponential").config)
    path = edm.read_path(config).with_grid("trailing")
    written = edm.make_scheduler(path, config, steps)
    again = EDMEulerScheduler.from_config(dict(written.config))
    again.set_timesteps(steps)
    torch.testing.assert_close(again.sigmas, path.alpha_sigma(path.grid(steps))[1].flatten(), rtol=1e-5, atol=0)
    read = edm.read_path(dict(written.config))
    assert (read.sigma_min, read.spacing) == (path.sigma_min, "trailing")


# --- grids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_trailing_grids_nest(name: str, steps: int) -> None:
    path = PATHS[name]
    grid, fine = path.grid(steps), path.grid(2 * steps)
    torch.testing.assert_close(fine[::2], grid, rtol=0, atol=1e-9)
    assert (grid[0].item(), grid[-1].item()) == (path.start, path.clean)
    assert (fine.diff() < 0).all()
    assert path.alpha_sigma(grid[-1:])[1].item() == 0
    assert path.alpha_sigma(grid[-1:])[0].item() == 1


@pytest.mark.parametrize("path", [FLOW, EDM])
def test_grids_need_a_step(path: NoisePath) -> None:
    with pytest.raises(GridError, match=r"^a grid of 0 steps needs at least 1$"):
        path.grid(0)


def test_grids_that_mean_nothing_on_these_paths() -> None:
    assert FLOW.with_grid("linspace", "auto").spacing == EDM.with_grid("linspace", "auto").spacing == "linspace"
    with pytest.raises(
        DistillkitError, match=r'^grid\.spacing: is "leading", and grids of the model\'s noise path, which'
    ):
        FLOW.with_grid("leading", None)
    with pytest.raises(
        DistillkitError, match=r"^grid\.start: is 800, and the grids of the model's noise path begin at"
    ):
        EDM.with_grid("trailing", 800)


# --- what follows from α and σ ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_landing_over_two_steps(name: str) -> None:
    """Against the printed formulas in float64."""
    path, rng = PATHS[name], np.random.default_rng(0)
    z, first, second = (rng.normal(size=SHAPE) for _ in range(3))
    times = path.grid(4)[:3]
    t, middle, s = (times[i].expand(2) for i in range(3))
    (a0, a1, a2), (s0, s1, s2) = [value.flatten().double().numpy() for value in path.alpha_sigma(times)]
    middle_z = a1 * first + s1 / s0 * (z - a0 * first)
    landed = a2 * second + s2 / s1 * (middle_z - a1 * second)
    tensors = [torch.from_numpy(array).float() for array in (z, first, second)]
    ours = path.ddim(path.ddim(tensors[0], tensors[1], t, middle), tensors[2], middle, s)
    np.testing.assert_allclose(ours.numpy(), landed, rtol=0, atol=2e-6)
    aim = path.invert_ddim(tensors[0], ours, t, s)
    np.testing.assert_allclose(aim.numpy(), (landed - s2 / s0 * z) / (a2 - s2 / s0 * a0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(landing(path, t, s).flatten().numpy(), (a2 - s2 / s0 * a0) ** 2, rtol=1e-5)
    # Self-distillation's identity (c, 1 − c) holds on every path: √SNR is all that it knows.
    root = [a / s for a, s in ((a0, s0), (a1, s1), (a2, s2))]
    c = (root[1] - root[0]) / (root[2] - root[0])
    np.testing.assert_allclose(aim.numpy(), c * first + (1 - c) * second, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PATHS)
def test_predictions_and_their_losses(name: str) -> None:
    path, rng = PATHS[name], np.random.default_rng(1)
    x, eps, goal = (rng.normal(size=SHAPE) for _ in range(3))
    t = path.grid(3)[1].expand(2)
    alpha, sigma = path.alpha_sigma(t)
    a, s = alpha[0].item(), sigma[0].item()
    z = torch.from_numpy(a * x + s * eps).float()
    predictions = {
        kind: Prediction(z, read_x0(kind, torch.from_numpy(output).float(), z, alpha, sigma), alpha, sigma)
        for kind, output in (("epsilon", eps), ("flow", eps - x), ("sample", x))  # type: ignore[misc]
    }
    for prediction in predictions.values():
        np.testing.assert_allclose(prediction.x0.numpy(), x, rtol=0, atol=1e-5 * max(1, s / a))
        np.testing.assert_allclose(prediction.u.numpy(), eps - x, rtol=0, atol=2e-5 * max(1, a / s))
    prediction = predictions["sample"]
    jumps, clean = JumpBatch(z, torch.stack([t, t]), Condition()), torch.from_numpy(goal).float()
    squared = ((x - goal) ** 2).mean((1, 2, 3))
    for loss, factor in ((XMse, 1), (EpsMse, (a / s) ** 2), (FlowMse, ((a + s) / s) ** 2)):
        made = loss(loss.Options())
        made.setup(path)
        np.testing.assert_allclose(made.per_sample(jumps, prediction, clean).numpy(), factor * squared, rtol=1e-4)


@pytest.mark.parametrize("name", PATHS)
def test_weights_are_finite_at_the_noisiest_time(name: str) -> None:
    path = PATHS[name]
    t = path.grid(2)[:1]
    snr = (path.alpha_sigma(t)[0] / path.alpha_sigma(t)[1]).square().item()
    found = {kind: weight(kind, *path.alpha_sigma(t), 5.0).item() for kind in get_args(Weighting) if kind != "landing"}
    assert found == pytest.approx(
        {"none": 1, "truncated-snr": 1, "snr-plus-one": snr + 1, "snr": snr, "log-truncated": 1, "min-snr": snr}
    )


def test_v_is_refused_off_variance_preserving_paths() -> None:
    Predictor(Network(), TablePath(torch.linspace(0.99, 0.01, 10)), "v_prediction", call)
    with pytest.raises(
        DistillkitError, match=r"^the network predicts v = αε − σx, from which x can be read only where"
    ):
        Predictor(Network(), FLOW, "v_prediction", call)
    with pytest.raises(DistillkitError) as caught:
        VMse(VMse.Options()).setup(EDM)
    assert str(caught.value) == (
        "loss.type: 'v-mse' is for variance-preserving noise paths, and EdmPath is none; use 'flow-mse', or 'x-mse' "
        "with a weighting"
    )


# --- what starts from noise, and consistency --------------------------------------------------------------------------


def test_noise_is_scaled_to_what_the_path_begins_with() -> None:
    seen = []

    def look(network: nn.Module, z: Tensor, t: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        seen.append(z)
        return torch.zeros_like(z)

    for path in (FLOW, EDM):
        predictor = Predictor(Network(), path, "sample", look)
        sample(predictor, noise(), Condition(), 1)
        sample_consistency(predictor, lambda _: noise(), Condition(), 1)
    scheduler = EDMEulerScheduler()
    scales = [1, 1, scheduler.init_noise_sigma, scheduler.init_noise_sigma]
    for z, scale in zip(seen, scales, strict=True):
        torch.testing.assert_close(z, noise() * scale, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("path", "scale"), [(FLOW, 1.0), (EDM, EDMEulerScheduler().init_noise_sigma)])
def test_trajectories_begin_there_too(path: NoisePath, scale: float) -> None:
    class Unconditional:
        spec = ModelSpec("a model", path, "sample", SHAPE[1:])

        def condition(self, *_: Any) -> Condition:
            return Condition()

    source = Trajectory(Trajectory.Options(batch=2))
    source.setup(Unconditional(), None)  # type: ignore[arg-type]
    source.start_stage(Stage(4, 1, 2), path)
    jumps = source.draw(torch.Generator().manual_seed(0))
    torch.testing.assert_close(jumps.z, noise() * scale, rtol=1e-6, atol=0)
    torch.testing.assert_close(jumps.times[:, 0], path.grid(4)[:3], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["flow", "EDM"])
def test_consistency_function_is_z_where_its_time_is_0(name: str) -> None:
    """Clean data on the flow path, σ_min on EDM's: there the last step's target is z itself."""
    path = PATHS[name]
    grid = path.grid(4)
    student = Predictor(Network(), path, "flow" if name == "flow" else "sample", call)
    target = Consistency(Consistency.Options(decay=0.5))
    target.setup(student)
    target.start_stage(Stage(4, 1), path)

    class SameAgain:
        reuses_student = True

    with torch.no_grad():
        jumps = JumpBatch(noise(), grid[-2:, None].expand(-1, 2), Condition())
        found = target.compute(jumps, student(jumps.z, jumps.times[0], Condition()), SameAgain(), path)  # type: ignore[arg-type]
    torch.testing.assert_close(found.x0, found.z_next)


def test_merged_steps_land_where_the_fine_steps_do() -> None:
    for path in PATHS.values():
        predictor = Predictor(Network(), path, "sample", call)

        class Teacher:
            reuses_student = True

            def predict(
                self, z: Tensor, t: Tensor, condition: Condition, size: Tensor | None, at: Predictor = predictor
            ) -> Prediction:
                found: Prediction = at(z, t, condition)
                return found

        z = noise() * path.initial_scale
        for begin in (0, 2):
            times = path.grid(4)[begin : begin + 3, None].expand(-1, 2)
            with torch.no_grad():
                first = predictor(z, times[0], Condition())
                found = MergedSteps(MergedSteps.Options()).compute(
                    JumpBatch(z, times, Condition()),
                    first,
                    Teacher(),
                    path,  # type: ignore[arg-type]
                )
                walked = z
                for t, s in pairwise(times):
                    walked = path.ddim(walked, predictor(walked, t, Condition()).x0, t, s)
            torch.testing.assert_close(path.ddim(z, found.x0, times[0], times[-1]), walked, rtol=1e-5, atol=1e-5)
            z = found.z_next
