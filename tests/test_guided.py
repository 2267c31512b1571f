"""Guided distillation: a network that takes the guidance scale as an input: taught, distilled and exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import diffusers
import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DModel
from distillkit_diffusers.model import DiffusersModel
from distillkit_diffusers.pipelines.guided_unet import GuidedUNet2DModel
from distillkit_dsd.dsd import MergedSteps
from distillkit_guided.guided_teacher import GuidedTeacher
from helpers.digits import MODEL, PLAIN, SCORED, TEACHER, Run, distil, settings
from helpers.networks import ddim_scheduler, ddpm_pipeline, dit, kl_autoencoder
from helpers.pipelines import alone
from helpers.text_pipelines import sd3, stable_diffusion
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillkit.cli.group import cli
from distillkit.config import read_config
from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import GuidanceInput, JumpBatch, Stage
from distillkit.noise import Predictor
from distillkit.sampling import noise_for, sample
from distillkit.training import assemble
from distillkit.training import run as runs

WITH_INPUT = MODEL + "guidance_input = [1.0, 3.0]\n"
COUNT = 60
STAGE_1 = (
    "run.updates=200",
    "source.batch=32",
    "optimizer.learning_rate=1e-3",
    "optimizer.final_learning_rate=1e-4",
    "evaluation.guidance=3.0",
    "evaluation.steps=[8]",
    "evaluation.samples=200",
)


def load(folder: Path, scales: tuple[float, float] | None = None) -> tuple[DiffusersModel, Predictor]:
    model = DiffusersModel(DiffusersModel.Options(path=folder, guidance_input=scales))
    model.load()
    model.spec = model.spec.with_grid("trailing", "auto")
    return model, Predictor(model.network.eval(), model.spec.path, model.spec.prediction, model.forward)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """z, times, classes and scales of a batch."""
    z, times = noise_for(3, range(COUNT), (1, 8, 8)), torch.arange(COUNT) * 997 % 1000
    return z, times, torch.arange(COUNT) % 10, torch.linspace(1, 3, COUNT)


@torch.no_grad()
def mixed(z: Tensor, times: Tensor, labels: Tensor, scales: Tensor) -> Tensor:
    """The guided v of stock diffusers' network, mixed in float64."""
    network = UNet2DModel.from_pretrained(TEACHER / "unet")
    conditional, null = (network(z, times, classes).sample.double() for classes in (labels, 0 * labels + 10))
    return null + scales.double().view(-1, 1, 1, 1) * (conditional - null)


@torch.no_grad()
def error(folder: Path | None = None) -> float:
    """Mean squared error of v against guidance by mixing; of the teacher's class prediction, if no folder is given."""
    z, times, labels, scales = inputs()
    if folder is None:
        found = UNet2DModel.from_pretrained(TEACHER / "unet")(z, times, labels).sample
    else:
        model, _ = load(folder)
        found = model.network(z, times, labels, scales).sample
    return (found - mixed(z, times, labels, scales)).square().mean().item()


@pytest.fixture(scope="module")
def stage_1(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return distil(tmp_path_factory.mktemp("guided"), "guided", *STAGE_1, tables=WITH_INPUT + PLAIN + SCORED)


# --- the network ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_new_input_changes_nothing() -> None:
    """At every scale, to the last bit: the output of the network that it is made from."""
    z, times, labels, _ = inputs()
    stock = UNet2DModel.from_pretrained(TEACHER / "unet")
    network = load(TEACHER, (1.0, 3.0))[0].network
    for scale in (1.0, 1.7, 3.0):
        found = network(z, times, labels, torch.full((COUNT,), scale)).sample
        assert torch.equal(found, stock(z, times, labels).sample)


@torch.no_grad()
def test_the_scale_is_embedded_as_in_diffusers() -> None:
    """Once it is not zero: the sinusoids of 1000 w that diffusers' pipelines tell LCM, through a linear layer.

    sin and cos of 1000 w · 10000^(−i/127), i from 0 to 127, w = s − 1.
    """
    embedding = load(TEACHER, (1.0, 3.0))[0].network.class_embedding
    torch.manual_seed(0)
    torch.nn.init.normal_(embedding.guidance.weight)
    torch.nn.init.normal_(embedding.guidance.bias)
    _, _, labels, scales = inputs()
    angles = 1000 * (scales.double().view(-1, 1) - 1) * 10000 ** (-torch.arange(128).double() / 127)
    features = torch.cat([angles.sin(), angles.cos()], 1)
    layer = embedding.guidance.double()
    expected = embedding.weight[labels] + features @ layer.weight.T + layer.bias
    layer.float()
    # A float32 angle of 2000 is known to 1e-4.
    torch.testing.assert_close(embedding((labels, scales)).double(), expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", ["inputs", "copy", "saved"])
@torch.no_grad()
def test_the_input_stays(stage_1: Run, tmp_path: Path, kind: str) -> None:
    """In the exported folder, in a copy, and if asked for again; and the scale matters."""
    model, predictor = load(stage_1.folder / "pipeline", (1.0, 3.0) if kind == "saved" else None)
    assert model.spec.guidance_input == GuidanceInput(1, 3, new=False)
    z, times, labels, scales = inputs()
    condition = model.condition(labels, COUNT, scales)
    assert condition.guidance is None
    used = predictor.frozen_copy() if kind == "copy" else predictor
    assert torch.equal(used(z, times, condition).x0, predictor(z, times, condition).x0)
    assert predictor.evaluations.count == 2
    other = model.condition(labels, COUNT, scales.flip(0))
    assert not torch.allclose(used(z, times, other).x0, predictor(z, times, condition).x0, atol=1e-3)


# --- stage 1 --------------------------------------------------------------------------------------------------------


def test_the_target_is_the_guided_prediction() -> None:
    """x̂ = αz − σv̂ of the mixed v̂, in float64; trajectories go on by DDIM; one evaluation."""
    model, student = load(TEACHER, (1.0, 3.0))
    z, times, labels, scales = inputs()
    times = times.clamp(min=10)
    step = JumpBatch(z, torch.stack([times, times - 10]), model.condition(labels, COUNT, scales))
    teacher = GuidedTeacher(GuidedTeacher.Options())
    teacher.setup(student)
    target = MergedSteps(MergedSteps.Options(stride=1, form="last"))
    with torch.no_grad():
        seen = student(z, times, step.condition)
        before = student.evaluations.count
        aim = target.compute(step, seen, teacher, model.spec.path)
    assert student.evaluations.count - before == 1 == target.teacher_evaluations(Stage(64, 1), teacher)
    alpha, sigma = (value.double() for value in model.spec.path.alpha_sigma(times))
    expected = alpha * z.double() - sigma * mixed(z, times, labels, scales)
    torch.testing.assert_close(aim.x0.double(), expected, rtol=0, atol=1e-5)
    alpha_s, sigma_s = (
        model.spec.path.alpha_sigma(times - 10)[0].double(),
        model.spec.path.alpha_sigma(times - 10)[1].double(),
    )
    landing = alpha_s * expected + sigma_s / sigma * (z.double() - alpha * expected)
    torch.testing.assert_close(aim.z_next.double(), landing, rtol=0, atol=1e-5)
    # It is not what the student says, but for s = 1.
    assert not torch.allclose(aim.x0[1:], seen.x0[1:], atol=1e-3)
    torch.testing.assert_close(aim.x0[0], seen.x0[0], rtol=0, atol=1e-5)


def test_the_student_learns_to_guide(stage_1: Run) -> None:
    """Against guidance by mixing, at places that it has not seen; two evaluations an update."""
    assert error(stage_1.folder / "pipeline") < 0.5 * error()
    assert {line["evaluations"] for line in stage_1.journal} == {2}


@torch.no_grad()
def test_its_samples_are_near_guided_ones(stage_1: Run) -> None:
    """In one evaluation a step, from the same noise, nearer to the guided teacher's than without guidance."""
    (model, student), (plain, teacher) = load(stage_1.folder / "pipeline"), load(TEACHER)
    z, _, labels, _ = inputs()
    scales = torch.full((COUNT,), 3.0)
    goal = sample(teacher, z, plain.condition(labels, COUNT, scales), 8)
    unguided = sample(teacher, z, plain.condition(labels, COUNT), 8)
    told = sample(student, z, model.condition(labels, COUNT, scales), 8)
    assert (told - goal).square().mean() < 0.5 * (unguided - goal).square().mean()


def test_the_teacher_that_is_scored_is_guided(stage_1: Run, tmp_path: Path) -> None:
    """By mixing, as the network itself cannot yet."""
    options = [option for option in STAGE_1 if "batch" not in option] + ["run.updates=1", "source.batch=4"]
    plain = distil(tmp_path, "dsdi", *options, "schedule.start=4", tables=MODEL + PLAIN + SCORED)
    assert stage_1.score("teacher", 8) == pytest.approx(plain.score("teacher", 8), rel=1e-4)


def test_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    options = ["run.updates=4", "run.checkpoint_every=2", "source.batch=4", "schedule.steps=4"]
    whole = distil(tmp_path / "whole", "guided", *options, tables=WITH_INPUT + PLAIN)
    half = distil(tmp_path / "half", "guided", *options, tables=WITH_INPUT + PLAIN)
    shutil.rmtree(half.folder / "checkpoints/update-000004")
    shutil.rmtree(half.folder / "pipeline")
    again = distil(tmp_path / "half", "guided", *options, tables=WITH_INPUT + PLAIN, resume=True)
    assert again.losses == whole.losses
    assert all(torch.equal(weight, whole.weights()[name]) for name, weight in again.weights().items())


# --- stage 2 --------------------------------------------------------------------------------------------------------

SLOW = ("optimizer.learning_rate=3e-4", "optimizer.final_learning_rate=3e-5")
STAGE_2 = {
    "pd": (3, ("schedule.start=4", *SLOW)),
    "tsd": (3, ("schedule.start=4", *SLOW)),
    "dsdi": (2, ("schedule.start=4", "optimizer.learning_rate=3e-5", "optimizer.final_learning_rate=3e-6")),
    "dsd-anchored": (2, ("schedule.start=8", *SLOW)),
}


@pytest.mark.parametrize("preset", STAGE_2)
def test_any_method_distils_it(stage_1: Run, tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At scales of its own for each sample, every evaluation being of one batch; few steps get better."""
    evaluations, options = STAGE_2[preset]
    sizes = []
    forward = GuidedUNet2DModel.forward

    def counted(network: GuidedUNet2DModel, z: Tensor, *rest: Tensor, **named: Tensor) -> Tensor:
        assert named["guidance"].shape == (len(z),)
        sizes.append(len(z))
        return forward(network, z, *rest, **named)

    tables = MODEL.replace(str(TEACHER), str(stage_1.folder / "pipeline")) + PLAIN + SCORED
    options = ("run.updates=60", "source.batch=24", "source.guidance=[1.0, 3.0]", "ema.decay=0.9", *options)
    scored = ("evaluation.guidance=2.0", "evaluation.samples=200", "evaluation.batch=100")
    monkeypatch.setattr(GuidedUNet2DModel, "forward", counted)
    run = distil(tmp_path, preset, *options, *scored, tables=tables)
    assert {line["evaluations"] for line in run.journal} == {evaluations}
    assert sizes.count(24) == 60 * evaluations
    assert set(sizes) == {24, 100, 2}  # updates, scores, sheets
    assert run.score("student", 2) < 0.95 * run.score("teacher", 2)


TWO_PHASES = """
[run]
name = "two"
[source]
batch = 4
guidance = [1.0, 3.0]
[[phase]]
preset = "guided"
run = { updates = 3 }
schedule = { steps = 4 }
[[phase]]
preset = "dsd-anchored"
run = { updates = 4 }
schedule = { start = 4, cycles = 1 }
"""


def test_two_phases_and_the_second_again(tmp_path: Path) -> None:
    """Stage 1 and stage 2 in one config; stopped between them, the weights are the same."""
    (tmp_path / "two.toml").write_text(TWO_PHASES + WITH_INPUT + PLAIN, encoding="utf-8")
    config = read_config(tmp_path / "two.toml")
    folder = tmp_path / "run"
    runs.run(config, folder)
    whole = Run(folder).weights()
    assert "class_embedding.guidance.weight" in whole
    shutil.rmtree(folder / "phases/2")
    runs.run(config, folder, resume=True)
    assert all(torch.equal(weight, whole[name]) for name, weight in Run(folder).weights().items())


# --- the export -----------------------------------------------------------------------------------------------------

SAMPLE = """
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
logging.disable_progress_bar()
pipe = DiffusionPipeline.from_pretrained("pipeline", trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
noise = load_file("noise.safetensors")["noise"]
images = {
    str(scale): pipe([0, 1, 2, 3], 4, scale, latents=noise, output_type="pt").images for scale in (None, 1.0, 1.5, 3.0)
}
save_file({key: value.contiguous() for key, value in images.items()}, "images.safetensors")
try:
    pipe([0], guidance_scale=4.0)
except ValueError as error:
    assert str(error) == "guidance_scale must be from 1 to 3, which the network takes (got 4.0)", error
else:
    raise AssertionError("taken")
"""


def test_stock_diffusers_samples_the_same(stage_1: Run, tmp_path: Path) -> None:
    """From the folder alone, where there is no distillkit, at several scales; the run's own (3) unless told."""
    shutil.copytree(stage_1.folder / "pipeline", tmp_path / "pipeline")
    assert not list(tmp_path.rglob("__pycache__"))
    noise = noise_for(5, range(4), (1, 8, 8))
    save_file({"noise": noise}, tmp_path / "noise.safetensors")
    # What it would complain of is that 4 steps are not the 8 that it was made for: diffusers' solver does not.
    alone("import warnings; warnings.simplefilter('ignore')\n" + SAMPLE, tmp_path)
    images = load_file(tmp_path / "images.safetensors")
    model, predictor = load(tmp_path / "pipeline")
    for name, found in images.items():
        scales = torch.full((4,), 3.0 if name == "None" else float(name))
        expected = sample(predictor, noise, model.condition(torch.arange(4), 4, scales), 4)
        torch.testing.assert_close(found, (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)
    assert all(not torch.equal(a, b) for a, b in pairwise(images[name] for name in ("1.0", "1.5", "3.0")))


def test_index_and_card(stage_1: Run) -> None:
    folder = stage_1.folder / "pipeline"
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    assert (index["unet"], index["guidance_scale"]) == (["guided_unet", "GuidedUNet2DModel"], 3.0)
    assert json.loads((folder / "unet/config.json").read_text(encoding="utf-8"))["guidance_range"] == [1.0, 3.0]
    card = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    assert "- Guidance: scale 3; the network takes any scale from 1 to 3 as an input, in one evaluation" in card


# --- mistakes -------------------------------------------------------------------------------------------------------


def mistakes(folder: Path, preset: str, *options: str, tables: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        assemble.load(settings(folder, preset, "run.updates=64", *options, tables=tables).components())
    return [str(mistake) for mistake in caught.value.mistakes]


def test_scales_outside_the_range(tmp_path: Path) -> None:
    options = ["source.guidance=[1.0, 5.0]", "evaluation.guidance=0.5"]
    assert mistakes(tmp_path, "guided", *options, tables=WITH_INPUT + PLAIN) == [
        "source.guidance: must lie in [1, 3], the scales that the network takes as an input (got [1, 5])",
        "evaluation.guidance: must lie in [1, 3], the scales that the network takes as an input (got 0.5)",
    ]


def test_a_network_without_the_input(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "guided", tables=MODEL + PLAIN) == [
        "model.guidance_input: is required: the teacher 'guided' teaches the network to take the guidance scale as an "
        "input; give the lowest and the highest scale, as in [1.0, 3.0]"
    ]


NO_NEW_INPUT = (
    "teacher.type: 'guided' teaches a network a new input, the guidance scale, which this model cannot be given; use "
    "another method, as the presets pd, tsd and dsdi do"
)


def dit_pipeline(folder: Path) -> None:
    diffusers.DiTPipeline(dit(), kl_autoencoder(), ddim_scheduler()).save_pretrained(folder)


@pytest.mark.parametrize("save", [stable_diffusion, sd3, dit_pipeline])
def test_a_network_that_cannot_be_given_the_input(tmp_path: Path, save: Callable[[Path], None]) -> None:
    """One sentence, before anything is loaded, and not that it is required and then means nothing."""
    save(tmp_path / "teacher")
    prompts = "" if save is dit_pipeline else 'prompts = ["a", "b"]\n'
    tables = MODEL.replace(str(TEACHER), str(tmp_path / "teacher")) + prompts + PLAIN + "[run]\nupdates = 64\n"
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, "guided", tables=tables)
    assert [str(mistake) for mistake in caught.value.mistakes] == [NO_NEW_INPUT]
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "mine.toml")])
    assert (result.exit_code, result.output.splitlines()[1:]) == (2, [f"  {NO_NEW_INPUT}"])


def test_a_network_that_turns_out_not_to_have_a_null_class(tmp_path: Path) -> None:
    ddpm_pipeline(tmp_path / "teacher")
    tables = MODEL.replace(str(TEACHER), str(tmp_path / "teacher")) + PLAIN
    assert NO_NEW_INPUT in mistakes(tmp_path, "guided", tables=tables)


def test_an_input_without_a_teacher(tmp_path: Path) -> None:
    assert mistakes(tmp_path, "dsdi", tables=WITH_INPUT + PLAIN) == [
        "model.guidance_input: adds an input that the network is not trained for: train it with the preset 'guided' "
        "first, and distil the result (see [[phase]]); or bake a range of scales into the student (student.guidance)"
    ]


def test_plain_guidance_of_a_network_that_takes_the_scale(stage_1: Run, tmp_path: Path) -> None:
    folder = stage_1.folder / "pipeline"
    assert mistakes(tmp_path, "guided", tables=MODEL.replace(str(TEACHER), str(folder)) + PLAIN) == [
        f"teacher.type: 'guided' mixes two predictions of a network without guidance, but {folder} takes the "
        "scale as an input; use another teacher, as the presets pd, tsd and dsdi do"
    ]


def test_sample_at_a_scale_that_it_does_not_take(stage_1: Run, tmp_path: Path) -> None:
    arguments = ["sample", str(stage_1.folder), "--count", "2", "--output", str(tmp_path / "a.png")]
    assert CliRunner().invoke(cli, [*arguments, "--guidance", "2.5"]).exit_code == 0
    result = CliRunner().invoke(cli, [*arguments, "--guidance", "5"])
    assert result.exit_code == 2
    assert "guidance: the network takes the scales from 1 to 3 as an input (got 5); ask for one of them" in " ".join(
        result.stderr.split()
    )


def test_evaluate_takes_the_runs_scale(stage_1: Run) -> None:
    arguments = ["evaluate", str(stage_1.folder), "--steps", "8", "--json"]
    [row] = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert row["value"] == pytest.approx(stage_1.score("student", 8))
    assert "guidance 3" in row["protocol"]


def test_another_range(stage_1: Run) -> None:
    with pytest.raises(DistillkitError, match=r"\[1, 5\]; the network takes the scales \[1, 3\] "):
        load(stage_1.folder / "pipeline", (1.0, 5.0))


def test_no_null_class(tmp_path: Path) -> None:
    shutil.copytree(TEACHER / "unet", tmp_path / "unet")
    shutil.copytree(TEACHER / "scheduler", tmp_path / "scheduler")
    with pytest.raises(DistillkitError) as caught:
        load(tmp_path, (1.0, 3.0))
    assert str(caught.value) == (
        "model.guidance_input: the network has no null class (see model.null_class); guidance compares a class with "
        "the null class"
    )
    network = {"sample_size": 8, "block_out_channels": [32, 32], "down_block_types": ["DownBlock2D"] * 2}
    network |= {"up_block_types": ["UpBlock2D"] * 2}
    model = DiffusersModel(
        DiffusersModel.Options(network=network, scheduler={"prediction_type": "sample"}, guidance_input=(1.0, 3.0))
    )
    with pytest.raises(DistillkitError, match=r"^model.guidance_input: the network has no classes; "):
        model.load()


def test_one_step_of_the_students_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, "dsdi", "run.updates=64", "target.stride=1")
    assert [str(mistake) for mistake in caught.value.mistakes] == [
        "target: 'merged-steps' in jumps of one step asks the teacher 'self' for nothing but the student's own "
        "prediction; make target.stride at least 2, or use another teacher"
    ]


def test_the_lower_scale_comes_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model.guidance_input: must be \[low, high\], the lower first"):
        settings(tmp_path, "guided", "model.guidance_input=[3.0, 1.0]", tables=WITH_INPUT + PLAIN)
