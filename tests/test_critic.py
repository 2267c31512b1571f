"""Critics: what they learn, what losses make of it, and runs with them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest
import torch
from distillkit_critic.fake_score import FakeScore, Scores
from distillkit_critic.losses import DistributionMatching, ScoreIdentity
from helpers.digits import MODEL, PLAIN, SCORED, TEACHER, distil, read_checkpoint, settings
from helpers.networks import ddim_pipeline, live_bytes
from helpers.targets import ALPHA, PATH, SIGMA, frozen, predictor
from torch import Tensor

from distillkit.config import Config, read_config
from distillkit.config.fit import estimate
from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import Inventory, JumpBatch, Landing
from distillkit.noise import Condition, Prediction, Predictor
from distillkit.training.assemble import load, prepare
from distillkit.training.loop import Position, updates
from distillkit.training.run import run
from distillkit.training.step import DistillStep

SMALL = (
    "run.updates=6",
    "run.checkpoint_every=1",
    "run.keep=99",
    "schedule.steps=4",
    "source.levels=[1, 2, 4]",
    "source.level_weights=[1, 1, 1]",
    "source.trajectories=8",
    "source.batch=3",
    "critic.warmup=0.3",
    "critic.updates=2",
    "grid.start=auto",
)


def own(tmp_path: Path, *more: str) -> tuple[str, ...]:
    """A small run, whose trajectories are the test's own."""
    return (*SMALL, f"source.folder={tmp_path / 'trajectories'}", *more)


def landing_of(student: Predictor, t: int, s: int, count: int = 2) -> Landing:
    torch.manual_seed(t + s)
    times = torch.tensor([[t] * count, [s] * count])
    jumps = JumpBatch(torch.randn(count, 1, 5, 5), times, Condition(), seed=(0, 0, 0))
    prediction = student(jumps.z, times[0], jumps.condition)
    return Landing(jumps, prediction, PATH.ddim(jumps.z, prediction.x0, *times))


def critic_of(student: Predictor, **options: object) -> FakeScore:
    critic = FakeScore(FakeScore.Options.model_validate(options))
    model = None
    critic.setup(model, student, None)  # type: ignore[arg-type]  # which it does not ask
    return critic


@pytest.mark.parametrize("s", [-1, 300, 800])
def test_a_critic_that_learns_is_the_denoiser_of_the_students_samples(s: int) -> None:
    """For x ~ N(0, c²) that landed at s, the regression of what it learns on z_r is E[x | z_r], in closed form."""
    student, c, count = predictor(), 0.5, 400_000
    critic = critic_of(student)
    random = torch.Generator().manual_seed(0)
    x = c * torch.randn(count, 1, 1, 1, generator=random)
    z = ALPHA[s] * x + SIGMA[s] * torch.randn(x.shape, generator=random)
    times = torch.tensor([[999], [s]]).expand(2, count)
    jumps = JumpBatch(z, times, Condition(), seed=(0, 0, 0))
    noised = critic._noised(Landing(jumps, Prediction(z, x, x, x), z), random)
    for r in noised.t.unique().tolist()[::8]:
        here = noised.t == r
        z_r, target, weight = noised.z[here].double().flatten(), noised.x[here].double().flatten(), noised.weight[here]
        assert SIGMA[r] / ALPHA[r] > SIGMA[s] / ALPHA[s]
        variance = (c * ALPHA[r]) ** 2 + SIGMA[r] ** 2
        torch.testing.assert_close(z_r.var().item(), variance, rtol=0.1, atol=0)
        slope = ((z_r * target).mean() / z_r.square().mean()).item()
        spread = (target - slope * z_r).std().item()
        expected = c**2 * ALPHA[r] / variance
        assert abs(slope - expected) < 5 * spread / sqrt(variance * len(z_r))
        new = 1 - (SIGMA[s] / ALPHA[s] * ALPHA[r] / SIGMA[r]) ** 2
        assert weight.unique().numel() == 1
        assert weight[0].item() == pytest.approx(max((ALPHA[r] / SIGMA[r]) ** 2, 1.0) * new, rel=1e-3)


def test_noise_reaches_the_noisiest_time_and_is_the_generators() -> None:
    student = predictor()
    critic = critic_of(student)
    landing = landing_of(student, 999, 500, 200)
    one, two, other = (critic._noised(landing, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.z, two.z)
    assert not torch.equal(one.z, other.z)
    assert one.t.max() == PATH.teacher_grid("angle").grid(64)[0]
    # Next to the noise, where hardly any is new, the noisiest time is taken.
    assert (critic._noised(landing_of(student, 999, 990), torch.Generator()).t == one.t.max()).all()


def scores(student: Prediction) -> Scores:
    torch.manual_seed(5)
    like = student.x0
    parts = [torch.randn_like(like) for _ in range(3)]
    made = [Prediction(student.z, part, student.alpha, student.sigma) for part in parts[1:]]
    return Scores(parts[0], *made)


def test_distribution_matchings_gradient_is_that_of_the_formula() -> None:
    student = landing_of(predictor(), 700, -1)
    x0 = student.student.x0.detach().requires_grad_()
    prediction = replace(student.student, x0=x0)
    said = scores(prediction)
    loss = DistributionMatching(DistributionMatching.Options())
    loss.per_sample(student.jumps, prediction, said).sum().backward()
    x, theirs, fake = (values.double() for values in (x0.detach(), said.teacher.x0, said.critic.x0))
    expected = torch.stack(
        [(f - t) / (o - t).abs().mean() / o.numel() for o, t, f in zip(x, theirs, fake, strict=True)]
    )
    assert x0.grad is not None
    torch.testing.assert_close(x0.grad.double(), expected, rtol=1e-4, atol=1e-8)


def as_published(x: Tensor, teacher: Tensor, critic: Tensor, alpha: float | None) -> Tensor:
    """The losses of public code under the Apache licence, written anew: their mean over a batch.

    alpha None: `variational_score_distillation_loss` of NVlabs/FastGen, fastgen/methods/common_loss.py; a number:
    `SID_EDMLoss.generator_loss` of mingyuanzhou/SiD, training/sid_loss.py (there summed, and scaled by the caller).
    """
    distance = (x - teacher).abs().flatten(1).mean(1).detach().reshape(-1, 1, 1, 1)
    if alpha is None:
        pulled = x.detach() - (critic - teacher).detach() / (distance + 1e-6)
        return torch.nn.functional.mse_loss(x, pulled) / 2
    gap = teacher - critic
    return (gap * (teacher - x - alpha * gap) / distance.clip(min=1e-5)).mean()


@pytest.mark.parametrize("alpha", [None, 1.0, 1.2])
def test_values_and_gradients_are_those_of_public_code(alpha: float | None) -> None:
    """On the same tensors, with the views of the two networks as functions of the student's samples."""
    torch.manual_seed(2)
    x = torch.randn(4, 3, 8, 8)
    mixes = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Conv2d(3, 3, 3, padding=1)
    found = []
    for ours in (True, False):
        mine = x.clone().requires_grad_()
        theirs, fake = (torch.tanh(mix(mine)) for mix in mixes)
        if ours:
            one = torch.ones(4, 1, 1, 1)
            at = [Prediction(x, view, one, one) for view in (mine, theirs, fake)]
            jumps = JumpBatch(x, torch.zeros(2, 4, dtype=torch.long), Condition())
            said = Scores(mine, critic=at[2], teacher=at[1])
            loss: DistributionMatching | ScoreIdentity = DistributionMatching(DistributionMatching.Options())
            if alpha is not None:
                loss = ScoreIdentity(ScoreIdentity.Options(alpha=alpha))
            value = loss.per_sample(jumps, at[0], said).mean()
        else:
            value = as_published(mine, theirs, fake, alpha)
        [gradient] = torch.autograd.grad(value, mine)
        found.append((value.detach(), gradient))
    (value, gradient), (expected, wanted) = found
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-9)
    assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("alpha", [0.5, 1.2])
def test_score_identitys_value_and_gradient_are_those_of_the_formula(alpha: float) -> None:
    """Through both networks, in float64; the divisor is a constant."""
    student, teacher = predictor(0), frozen(predictor(1))
    critic = critic_of(predictor(2))
    landing = landing_of(student, 700, -1)
    z = landing.z.detach().requires_grad_()
    landing = replace(landing, z=z)
    said = critic.judge(landing, teacher, torch.Generator().manual_seed(3))
    loss = ScoreIdentity(ScoreIdentity.Options(alpha=alpha))
    found = loss.per_sample(landing.jumps, landing.student, said)
    [gradient] = torch.autograd.grad(found.sum(), z)

    noised = critic._noised(landing.detach(), torch.Generator().manual_seed(3))
    precise = z.detach().double().requires_grad_()
    rows = []
    for row, r in enumerate(noised.t.tolist()):
        noise = (noised.z[row].double() - ALPHA[r] * z[row].detach().double()) / SIGMA[r]
        z_r = (ALPHA[r] * precise[row] + SIGMA[r] * noise).unsqueeze(0)
        x0 = [
            ALPHA[r] * z_r - SIGMA[r] * copy.network.double()(z_r, torch.tensor([float(r)]))
            for copy in (predictor(1), predictor(2))
        ]
        theirs, fake = (value.squeeze(0) for value in x0)
        distance = (precise[row] - theirs).abs().mean().detach()
        rows.append(((theirs - fake) * ((theirs - precise[row]) - alpha * (theirs - fake))).mean() / distance)
    expected = torch.stack(rows)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-6)
    [wanted] = torch.autograd.grad(expected.sum(), precise)
    torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=1e-6)


def test_a_balanced_loss_moves_each_x_as_much_as_the_others(tmp_path: Path) -> None:
    parts = load(settings(tmp_path, "dmd", *own(tmp_path)).components())
    for work in prepare(parts):
        work()
    components = parts.components
    components.source.start_stage(parts.plan[0], parts.student.path)
    jumps = replace(components.source.draw(torch.Generator().manual_seed(0)), seed=(0, 0, 0))
    kept: list[Tensor] = []

    class Kept(type(components.losses[0])):  # type: ignore[misc]
        def per_sample(self, jumps: JumpBatch, student: Prediction, goal: Tensor) -> Tensor:
            kept.append(student.x0)
            return super().per_sample(jumps, student, goal)

    assert components.critic is not None
    first, second = components.losses
    first = Kept(first.options)
    first.setup(parts.student.path)
    balanced = type(second)(second.options.model_copy(update={"weight": 2.5}))

    def gradient(*losses: object) -> tuple[Tensor, list[float]]:
        step = DistillStep(
            parts.student,
            components.teacher,
            components.target,
            [*losses],  # type: ignore[list-item]
            parts.student.path,
            10,
            components.critic,
        )
        loss, _, _, _, shares, _ = step(jumps)
        [found] = torch.autograd.grad(loss, kept[-1])
        return found.flatten(1), shares.tolist()

    # At the beginning it says what the teacher says, and no factor makes that as large as the other.
    large = Kept(first.options.model_copy(update={"weight": 1e4}))
    large.setup(parts.student.path)
    assert torch.equal(gradient(large, balanced)[0], gradient(large)[0])
    for weight in components.critic.network.parameters():
        weight.data *= 1.01
    (alone, nothing), (both, shares) = gradient(first), gradient(first, balanced)
    torch.testing.assert_close((both - alone).norm(dim=1), 2.5 * alone.norm(dim=1), rtol=1e-4, atol=0)
    assert shares == pytest.approx([1 / 3.5, 2.5 / 3.5])
    assert nothing == [0]
    # The critic's own weights take no gradient from the student's loss, and learn as before.
    assert all(weight.requires_grad and weight.grad is None for weight in components.critic.network.parameters())


def weights(folder: Path, update: int, owner: str = "network") -> dict[str, Tensor]:
    state = read_checkpoint(folder / f"checkpoints/update-{update:06d}")
    return {key.removeprefix("engine/"): value for key, value in state.items() if key.startswith(f"engine/{owner}")}


def test_a_run_is_a_loop_in_plain_torch(tmp_path: Path) -> None:
    """Two optimisers of torch's, the printed formulas and the batches that the source draws: the same weights."""
    options = own(
        tmp_path,
        "loss[1].weight=0.3",
        "loss[1].balance=false",
        "critic.optimizer.learning_rate=2e-4",
        "optimizer.clip=0",
    )
    options += ("optimizer.learning_rate=5e-5",)
    options += (
        "critic.optimizer.clip=0",
        "optimizer.final_learning_rate=1e-5",
        "critic.optimizer.final_learning_rate=2e-4",
    )
    made = distil(tmp_path, "dmd", *options)
    parts = load(settings(tmp_path, "dmd", *options).components())
    for work in prepare(parts):
        work()
    components, student = parts.components, parts.student
    critic, path, teacher = components.critic, student.path, components.teacher
    assert isinstance(critic, FakeScore)
    assert teacher is not None
    from distillkit.sampling import generator

    components.source.start_stage(parts.plan[0], path)
    adam = torch.optim.AdamW(student.network.parameters(), lr=5e-5, betas=(0.0, 0.98), weight_decay=0.0, fused=True)
    other = torch.optim.AdamW(critic.network.parameters(), lr=2e-4, betas=(0.0, 0.98), weight_decay=0.0, fused=True)
    shares = [0.0] * 2
    for update in range(6):
        jumps = replace(components.source.draw(generator(0, update, 0, "source")), seed=(0, update, 0))
        prediction = student(jumps.z, jumps.times[0], jumps.condition, jumps.step_size)
        z = path.ddim(jumps.z, prediction.x0, jumps.times[0], jumps.times[-1])
        landing = Landing(jumps, prediction, z)
        if update >= 2:
            assert jumps.landing is not None
            goal = path.invert_ddim(jumps.z, jumps.landing, jumps.times[0], jumps.times[-1])
            snr = (prediction.alpha / prediction.sigma).square().clamp(min=1)
            loss = (snr * (prediction.x0 - goal).square()).mean()
            with torch.no_grad():
                said = critic.judge(landing, teacher, generator(0, update, 0, "judge"))
                distance = (prediction.x0 - said.teacher.x0).abs().mean((1, 2, 3), keepdim=True)
                aim = prediction.x0 - (said.critic.x0 - said.teacher.x0) / distance
            loss = loss + 0.3 * 0.5 * (prediction.x0 - aim).square().mean()
            gradients = (2 * snr * (prediction.x0 - goal), 0.3 * (prediction.x0 - aim))
            regression, critics = (gradient.detach().flatten(1).norm(dim=1).mean().item() for gradient in gradients)
            shares.append(regression / (regression + critics))
            for group in adam.param_groups:
                group["lr"] = 1e-5 + 4e-5 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * update / 6)).item())
            loss.backward()
            adam.step()
            adam.zero_grad()
        for number in range(2):
            critic.loss(landing.detach(), generator(0, update, 0, f"critic {number}")).mean().backward()
            other.step()
            other.zero_grad()
        # While the critic learns alone, the student stays as it is.
        for owner, network in {"network": student.network, "critic/network": critic.network}.items():
            found = weights(made.folder, update + 1, owner)
            for name, weight in network.named_parameters():
                torch.testing.assert_close(found[f"{owner}.{name}"], weight.detach(), rtol=0, atol=2e-6)
    lines = made.journal
    assert [line["grad_norm"] == 0 for line in lines] == [True] * 2 + [False] * 4
    assert all(line["critic_loss"] > 0 for line in lines)
    assert [line["gradient/x-mse"] for line in lines] == pytest.approx(shares, rel=1e-4)
    assert [line["gradient/distribution-matching"] for line in lines[2:]] == pytest.approx(
        [1 - share for share in shares[2:]]
    )
    assert {line["evaluations"] for line in lines} == {parts.plan[0].evaluations} == {1 + 1 + 1 + 2}


def test_a_student_starts_with_another_ones_weights(tmp_path: Path) -> None:
    """The teacher and its scores are the model's. Before any update, weights and average are those of the start."""
    options = [option for option in own(tmp_path) if not option.startswith(("critic", "run.updates"))]
    tables = MODEL + PLAIN + SCORED
    few = ["evaluation.samples=5", "evaluation.batch=5", "evaluation.teacher=true", "optimizer.learning_rate=1e-2"]
    first = distil(tmp_path / "first", "any-step", *options, *few, "run.updates=3", tables=tables)
    start = f"student.start={first.folder}"
    again = distil(tmp_path / "again", "dmd", *own(tmp_path, *few[:3], start, "critic.warmup=0.99"), tables=tables)
    assert again.score("teacher", 2) == first.score("teacher", 2)
    assert again.score("teacher", 2) != first.score("student", 2)
    exported = weights(first.folder, 3, "average")
    for owner in ("network", "average"):
        found = weights(again.folder, 5, owner)
        assert found.keys() == {name.replace("average", owner) for name in exported}
        for name, value in exported.items():
            torch.testing.assert_close(found[name.replace("average", owner)], value, rtol=0, atol=1e-6)
    # It goes on without the folder that it started from.
    shutil.rmtree(first.folder)
    shutil.rmtree(again.folder / "pipeline")
    settled = settings(tmp_path / "again", "dmd", *own(tmp_path, *few[:3], start, "critic.warmup=0.99"), tables=tables)
    run(Config.of(settled), again.folder, resume=True)
    with pytest.raises(DistillkitError, match=r"student\.start: .*first/run does not exist; give the folder of a run"):
        distil(tmp_path / "gone", "dmd", *own(tmp_path, start))


def test_a_start_with_another_network_is_refused(tmp_path: Path) -> None:
    options = own(tmp_path, f"student.start={TEACHER}")
    with pytest.raises(DistillkitError, match=r"another network than the model: they differ in 'step_embedding"):
        distil(tmp_path, "dmd", *options)
    assert not (tmp_path / "run").exists()


CHAIN = f"""
[run]
name = "two"
[student]
guidance = "baked"
[source]
guidance = 1.5
batch = 3
trajectories = 8
levels = [1, 2]
level_weights = [1, 1]
[schedule]
steps = 2
[evaluation]
steps = [2]
teacher = false
grid = 2
{MODEL}
[tracker]
type = "none"
[[phase]]
preset = "any-step"
run = {{ updates = 2 }}
[[phase]]
preset = "dmd"
run = {{ updates = 3 }}
critic = {{ warmup = 0.3 }}
student = {{ start = "previous" }}
"""


def test_a_chain_sharpens_what_its_first_phase_taught(tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text(CHAIN, encoding="utf-8")
    folder = f"source.folder={tmp_path / 'trajectories'}"
    config = read_config(file, [folder, "phase[1].run.checkpoint_every=1", "phase[1].run.keep=9", "grid.start=auto"])
    run(config, tmp_path / "run")
    before, after = tmp_path / "run/phases/1", tmp_path / "run/phases/2"
    expected = weights(before, 2, "average")
    for name, value in weights(after, 1, "average").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)
    # The second phase's critic begins as the first phase's model.
    state = read_checkpoint(after / "checkpoints/update-000001")
    for name, value in load_teacher(config).items():
        assert torch.equal(state[f"teacher/network.{name}"], value)
    # Nothing of it depends on where the run's folder is.
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "run", moved)
    shutil.rmtree(moved / "pipeline")
    shutil.rmtree(moved / "phases/2/pipeline")
    run(config, moved, resume=True)


def load_teacher(config: Config) -> dict[str, Tensor]:
    model = config.phases[0].components().model
    model.load()
    return {name: weight.detach() for name, weight in model.network.named_parameters()}


REFUSED = {
    "no critic": (["critic={}"], r"critic\.type: is required"),
    "another loss": (["loss[1].against=target"], r"against: must be \"critic\": 'distribution-matching' reads"),
    "a loss of the target's": (["loss[0].against=critic"], r"loss\[0\]\.against: .*'x-mse' compares with the target"),
    "a teacher that follows": (["teacher={type='self'}"], r"teacher: .*a teacher that stays, and 'self' follows"),
    "a teacher that is renewed": (["teacher.renew=stage"], r"teacher: .*'frozen' follows the student"),
    "only a warm-up": (["critic.warmup=1.0"], r"critic\.warmup: must be less than 1"),
    "batches that are left over": (
        ["critic.updates=3", "optimizer.accumulate=2", "critic.optimizer.accumulate=4"],
        r"critic\.optimizer\.accumulate: must divide .* in an update, 6 \(got 4\)",
    ),
    "nothing to balance": (["loss[0].balance=true"], r"loss\[0\]\.balance: balances this loss with others"),
    "no phase before": (["student.start=previous"], r"student\.start: is \"previous\", and there is no phase before"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes(tmp_path: Path, case: str) -> None:
    options, message = REFUSED[case]
    file = tmp_path / "mine.toml"
    file.write_text(f'preset = "dmd"\n{MODEL}{PLAIN}', encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_config(file, [*own(tmp_path), *options])


def test_with_an_adapter_the_network_is_in_memory_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Student, teacher and critic are adapters on it, and each learns its own. The bytes of all tensors in the second
    update, when either has its gradient: within 5 % of one network and two adapters with AdamW's state and an average,
    and of what `distill` estimates."""
    ddim_pipeline(tmp_path / "model", block_out_channels=(64, 64))
    alone = f'[model]\ntype = "diffusers"\npath = "{tmp_path / "model"}"\n[tracker]\ntype = "none"\n'
    options = own(
        tmp_path, "student={adapter='lora', rank=2}", "critic.warmup=0.0", "run.updates=2", "grid.spacing=trailing"
    )
    components = settings(tmp_path, "dmd", *options, tables=alone).components()
    before, found = live_bytes(), [0]
    parts = load(components)
    for work in prepare(parts):
        work()
    critic, teacher = parts.components.critic, parts.components.teacher
    assert critic is not None
    assert teacher is not None
    mine, its = (dict(network.named_parameters()) for network in (parts.student.network, critic.network))
    shared = {name for name, weight in mine.items() if not weight.requires_grad}
    assert shared == {name for name, weight in its.items() if weight is mine[name]}
    assert not shared & {name.removeprefix("network.") for name in teacher.state_dict()}
    whole, each = (sum(mine[name].numel() for name in names) for names in (shared, mine.keys() - shared))
    old = [
        {name: weight.detach().clone() for name, weight in weights.items() if name not in shared}
        for weights in (mine, its)
    ]
    kept = sum(value.nbytes for values in old for value in values.values())
    step = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, "step", lambda self: found.append(live_bytes() - before - kept) or step(self)
    )
    for _ in updates(parts, Position(), print):
        pass
    for weights, values in zip((mine, its), old, strict=True):
        assert any(not torch.equal(weights[name], value) for name, value in values.items())
    assert len(found) == 1 + 2 * (1 + 2)
    assert max(found) == pytest.approx(4 * whole + (20 + 16) * each, rel=0.05)
    estimated = estimate(parts.components, Inventory("", whole, 0, None, 1.0, adapter=each)).total
    assert max(found) == pytest.approx(estimated, rel=0.05)


def test_a_student_can_walk_its_own_samples(tmp_path: Path) -> None:
    """Without a target: each jump begins where the student's last one landed."""
    text = f"""
    [source]
    type = "trajectory"
    levels = [1, 2, 4]
    batch = 3
    [schedule]
    type = "constant"
    steps = 4
    [teacher]
    type = "frozen"
    renew = "never"
    [critic]
    type = "fake-score"
    [[loss]]
    type = "distribution-matching"
    {MODEL}
    step_input = true
    {PLAIN}
    """
    file = tmp_path / "mine.toml"
    file.write_text(text, encoding="utf-8")
    parts = load(read_config(file, ["run.updates=3"]).phases[0].components())
    prepare(parts)
    drawn: list[JumpBatch] = []
    landed: list[Tensor] = []
    source = parts.components.source
    draw, advance = source.draw, source.advance
    source.draw = lambda random: drawn.append(draw(random)) or drawn[-1]  # type: ignore[method-assign,func-returns-value]
    source.advance = lambda z: landed.append(z) or advance(z)  # type: ignore[method-assign,func-returns-value]
    for _ in updates(parts, Position(), print):
        pass
    assert len(drawn) == len(landed) == 3
    first, later = drawn[:2]
    goes_on = [row for row in range(3) if first.times[-1, row] >= 0]
    assert goes_on
    for row in goes_on:
        assert later.times[0, row] == first.times[-1, row]
        assert torch.equal(later.z[row], landed[0][row])
