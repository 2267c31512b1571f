"""The merged-steps target under each teacher, against the algebra written out in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from distillkit_consistency.target import Consistency
from distillkit_dsd.dsd import MergedSteps
from distillkit_matching.trajectory_matching import TrajectoryMatching
from distillkit_pd.frozen_teacher import FrozenTeacher
from helpers.targets import (
    ALPHA,
    BATCH,
    PATH,
    SIGMA,
    UPDATE,
    ema,
    frozen,
    jump,
    predictor,
    self_teacher,
    set_up,
    weights,
    x0_at,
)
from torch import Tensor

from distillkit.interfaces import JumpBatch, Stage, Target, TargetBatch, Teacher
from distillkit.noise import Condition, Prediction, Predictor


def merged(form: str = "landing", stride: int | str = 2) -> MergedSteps:
    return MergedSteps(MergedSteps.Options.model_validate({"form": form, "stride": stride}))


def consistency() -> Consistency:
    return Consistency(Consistency.Options(decay=0.5))


def matching() -> TrajectoryMatching:
    return TrajectoryMatching(TrajectoryMatching.Options(stride=2))


def compute(target: MergedSteps, jumps: JumpBatch, student: Predictor, teacher: Teacher) -> TargetBatch:
    prediction = student(jumps.z, jumps.times[0], jumps.condition)
    with torch.no_grad():
        return target.compute(jumps, replace(prediction, x0=prediction.x0.detach()), teacher, PATH)


def walk(networks: list[Predictor], z: Tensor, times: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """DDIM in float64 through `times`, one network a step: every step's x̂, and where it lands."""
    predictions, here = [], z.double().numpy()
    for network, (t, s) in zip(networks, pairwise(times), strict=True):
        x0 = x0_at(network, torch.from_numpy(here).float(), t).double().numpy()
        predictions.append(x0)
        here = ALPHA[s] * x0 + SIGMA[s] * (here - ALPHA[t] * x0) / SIGMA[t]
    return predictions, here


def share(t: int, middle: int, s: int) -> float:
    """c = (√SNR_t' − √SNR_t)/(√SNR_t'' − √SNR_t); 0 on the last pair, where √SNR_t'' is infinite."""
    root = [ALPHA[i] / SIGMA[i] if i >= 0 else np.inf for i in (t, middle, s)]
    return float((root[1] - root[0]) / (root[2] - root[0]))


def close(actual: Tensor, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(actual.double().numpy(), expected, rtol=tolerance, atol=tolerance)


PAIRS = [(999, 749, 499), (749, 624, 499), (499, 249, 124), (499, 249, -1), (124, 0, -1)]


@pytest.mark.parametrize("times", PAIRS)
def test_landing_is_a_mean_of_the_two_predictions(times: tuple[int, int, int]) -> None:
    """x'' = c·x̂(z_t) + (1 − c)·x̂(z_t'), and c = 0 on the last pair."""
    student = predictor()
    jumps = jump(*times)
    target = compute(merged(), jumps, student, self_teacher(student))
    (first, second), landed = walk([student, student], jumps.z, list(times))
    c = share(*times)
    assert 0 < c < 1 if times[-1] >= 0 else c == 0
    close(target.x0, c * first + (1 - c) * second)
    close(target.z_next, landed)
    # One step of the student with that x̂ lands where the two did.
    close(PATH.ddim(jumps.z, target.x0, jumps.times[0], jumps.times[-1]), landed)


def gradient(student: Predictor, jumps: JumpBatch, goal: Tensor) -> Tensor:
    student.network.zero_grad()
    prediction = student(jumps.z, jumps.times[0], jumps.condition).x0
    (prediction - goal).square().mean().backward()
    return torch.cat(
        [parameter.grad.flatten() for parameter in student.network.parameters() if parameter.grad is not None]
    )


@pytest.mark.parametrize("times", PAIRS)
def test_landing_gradient_is_a_share_of_the_last_forms(times: tuple[int, int, int]) -> None:
    """The self teacher's landing gradient is (1 − c) times that of matching the next step's x̂."""
    student = predictor()
    jumps = jump(*times)
    landing = gradient(student, jumps, compute(merged(), jumps, student, self_teacher(student)).x0)
    last = gradient(student, jumps, compute(merged("last"), jumps, student, self_teacher(student)).x0)
    assert last.norm() > 1e-3
    torch.testing.assert_close(landing, (1 - share(*times)) * last, rtol=1e-3, atol=1e-5)


def test_the_identity_does_not_hold_for_another_teacher() -> None:
    """TSD: the first of the two x̂ is not the student's own."""
    times = (999, 749, 499)
    student, other, jumps = predictor(), predictor(1), jump(999, 749, 499)
    teacher = frozen(other)
    landing = gradient(student, jumps, compute(merged(), jumps, student, teacher).x0)
    last = gradient(student, jumps, compute(merged("last"), jumps, student, teacher).x0)
    assert (landing - (1 - share(*times)) * last).norm() > 0.05 * landing.norm()


@pytest.mark.parametrize("times", PAIRS)
def test_last_form_is_the_second_prediction(times: tuple[int, int, int]) -> None:
    student, jumps = predictor(), jump(*times)
    target = compute(merged("last"), jumps, student, self_teacher(student))
    (_, second), landed = walk([student, student], jumps.z, list(times))
    close(target.x0, second)
    close(target.z_next, landed)


def test_all_steps_merge_into_one() -> None:
    """Luhman & Luhman: one jump over the whole grid, whose target is what the sampler would have made."""
    student, teacher_network = predictor(), predictor(1)
    times = PATH.grid(4).tolist()
    jumps, target = jump(*times), merged(stride="all")
    assert target.stride(Stage(4, 1)) == 4
    made = compute(target, jumps, student, frozen(teacher_network))
    _, landed = walk([teacher_network] * 4, jumps.z, times)
    close(made.x0, landed)
    close(made.z_next, landed)


def test_who_takes_which_step() -> None:
    """The self and EMA teachers let the student take the first step, a frozen one takes both unless told otherwise."""
    student, jumps = predictor(), jump(999, 749, 499)
    slow = predictor().frozen_copy()  # the same weights, before the student moves
    cases = [
        (self_teacher(student), [student, student], 1),
        (ema(student, decay=1.0), [student, slow], 1),
        (frozen(student), [slow, slow], 2),
        (frozen(student, first_step="student"), [student, slow], 1),
    ]
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(0.3)
    for teacher, networks, evaluations in cases:
        teacher.after_update(student, UPDATE)
        target = merged()
        before = student.evaluations.count
        made = compute(target, jumps, student, teacher)
        # One of them is the student's own, not the target's.
        assert student.evaluations.count - before == 1 + evaluations
        assert target.teacher_evaluations(Stage(4, 1), teacher) == evaluations
        close(made.z_next, walk(networks, jumps.z, [999, 749, 499])[1])


def twice(student: Predictor) -> Teacher:
    """A third party's, whose predictions take two evaluations, as the mean of a network and its mirror image."""

    class Mirrored(FrozenTeacher):
        evaluations = 2

        def predict(self, z: Tensor, t: Tensor, condition: Condition, step_size: Tensor | None) -> Prediction:
            found, mirrored = (super(Mirrored, self).predict(view, t, condition, step_size) for view in (z, z.flip(-1)))
            return replace(found, x0=(found.x0 + mirrored.x0.flip(-1)) / 2)

    return set_up(Mirrored(Mirrored.Options()), student)


@pytest.mark.parametrize("target", [merged(), merged(stride=1), consistency(), matching()])
def test_evaluations_of_a_teacher_that_evaluates_twice(target: Target) -> None:
    student, stage = predictor(), Stage(4, 1)
    target.setup(student)
    target.start_stage(stage, PATH)
    times = [999, 749, 499][: target.stride(stage) + 1]
    jumps = jump(*times)
    prediction = student(jumps.z, jumps.times[0], jumps.condition)
    before = student.evaluations.count
    teacher = twice(student)
    with torch.no_grad():
        target.compute(jumps, replace(prediction, x0=prediction.x0.detach()), teacher, PATH)
    assert student.evaluations.count - before == target.teacher_evaluations(stage, teacher)


def test_evaluations_of_every_stride() -> None:
    student = predictor()
    for stride, steps, expected in ((2, 64, 2), (4, 64, 4), ("all", 16, 16)):
        target = merged(stride=stride)
        assert target.teacher_evaluations(Stage(steps, 1), frozen(student)) == expected
        assert target.teacher_evaluations(Stage(steps, 1), self_teacher(student)) == expected - 1


def test_targets_carry_no_gradient() -> None:
    student, jumps = predictor(), jump(999, 749, 499)
    target = compute(merged(), jumps, student, self_teacher(student))
    assert not target.x0.requires_grad
    assert not target.z_next.requires_grad


def test_ema_teacher_follows_slowly() -> None:
    student = predictor()
    teacher = ema(student, decay=0.9)
    start = weights(teacher).double()
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(1)
    teacher.after_update(student, UPDATE)
    teacher.after_update(student, UPDATE)
    torch.testing.assert_close(weights(teacher).double(), start + (1 - 0.9**2), rtol=0, atol=1e-6)


def test_frozen_teacher_is_renewed_at_a_stage_or_never() -> None:
    for renew, moved in (("stage", 1.0), ("never", 0.0)):
        student = predictor()
        teacher = frozen(student, renew=renew)
        start = weights(teacher).clone()
        with torch.no_grad():
            for parameter in student.network.parameters():
                parameter.add_(1)
        teacher.after_update(student, UPDATE)
        assert torch.equal(weights(teacher), start)
        teacher.end_stage(student)
        torch.testing.assert_close(weights(teacher), start + moved)


def test_teachers_go_on_from_their_state() -> None:
    for make in (lambda student: ema(student, 0.9), frozen):
        first, second = make(predictor(1)), make(predictor(2))
        z, t = torch.randn(BATCH, 1, 5, 5), torch.full((BATCH,), 500)
        second.load_state_dict(first.state_dict())
        assert torch.equal(first.predict(z, t, Condition(), None).x0, second.predict(z, t, Condition(), None).x0)
    assert self_teacher(predictor()).state_dict() == {}
