"""LoRA students: what is trained, what teachers share with them, and what is left of a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from diffusers import UNet2DModel
from distillkit_cache.store import teacher_of
from helpers.digits import MODEL, PLAIN, SCORED, TEACHER, Run, read_checkpoint, settings
from helpers.networks import NOISE, latent_pipeline
from helpers.pipelines import alone, assert_same_weights, own
from helpers.pipelines import distil as distil_folder
from helpers.pipelines import load as load_folder
from helpers.snippets import ROOT, blocks
from helpers.toys import TinyModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distillkit.config import Config
from distillkit.errors import DistillkitError
from distillkit.interfaces import StudentTable
from distillkit.noise import Predictor
from distillkit.sampling import generator, noise_for, sample
from distillkit.training.assemble import Parts, load, prepare
from distillkit.training.run import run

LORA = ("student.adapter=lora", "student.rank=16", "student.alpha=24")
TINY = ("run.updates=2", "source.batch=2", "schedule.start=4")
TIMES = torch.tensor([999, 400, 3])
LABELS = torch.tensor([3, 7, 10])


def teacher_network() -> nn.Module:
    """The teacher as diffusers loads it, frozen: torch multiplies in another order where a weight needs a gradient."""
    network: nn.Module = UNet2DModel.from_pretrained(TEACHER / "unet", low_cpu_mem_usage=False)
    return network.requires_grad_(False)


def output(network: nn.Module) -> Tensor:
    z = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: Tensor = network(z, TIMES, LABELS).sample
    return found


def loaded(folder: Path, *assignments: str, preset: str = "tsd", adapter: tuple[str, ...] = LORA) -> Parts:
    folder.mkdir(exist_ok=True)
    return load(settings(folder, preset, *TINY, *adapter, *assignments).components())


def train_a_bit(student: Predictor) -> None:
    """Move what is trained, as an optimiser would, far enough to be seen."""
    drawn = generator(0, "test")
    with torch.no_grad():
        for weight in student.network.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=drawn), alpha=0.1)


def numbers_held(*networks: nn.Module) -> int:
    """How many numbers the weights of networks take, each storage counted once."""
    storages = {weight.data_ptr(): weight.numel() for network in networks for weight in network.parameters()}
    return sum(storages.values())


# --- a network with an adapter --------------------------------------------------------------------------------------


def test_a_new_adapter_changes_nothing(tmp_path: Path) -> None:
    parts = loaded(tmp_path)
    assert torch.equal(output(parts.student.network), output(teacher_network()))
    train_a_bit(parts.student)
    assert not torch.allclose(output(parts.student.network), output(teacher_network()), atol=0.1)


def test_only_the_adapter_needs_a_gradient(tmp_path: Path) -> None:
    network = loaded(tmp_path).student.network
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    layers = {
        name: layer for name, layer in teacher_network().named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    assert len(layers) > 50
    assert trained.keys() == {f"{name}.lora_{letter}.default.weight" for name in layers for letter in "AB"}
    assert {weight.shape[0] for name, weight in trained.items() if "lora_A" in name} == {16}


def test_a_seed_is_an_adapter(tmp_path: Path) -> None:
    first, same, other = (
        loaded(tmp_path / str(i), f"run.seed={seed}").student.network.conv_in.lora_A["default"].weight  # type: ignore[union-attr, index]
        for i, seed in enumerate([3, 3, 4])
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        ('["to_q"]', ["down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0",
                      "up_blocks.0.attentions.1"]),
        ('["mid_block.attentions.0.to_q"]', ["mid_block.attentions.0"]),
    ],
)  # fmt: skip
def test_target_modules(tmp_path: Path, targets: str, layers: list[str]) -> None:
    network = loaded(tmp_path, f"student.target_modules={targets}").student.network
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    assert trained == {f"{layer}.to_q.lora_{letter}.default.weight" for layer in layers for letter in "AB"}


# --- copies, for teachers -------------------------------------------------------------------------------------------


def test_a_copy_shares_the_weights(tmp_path: Path) -> None:
    student = loaded(tmp_path).student
    base, whole = numbers_held(teacher_network()), numbers_held(student.network)
    copies = [student.frozen_copy(), student.frozen_copy()]
    copies.append(copies[0].frozen_copy())
    assert numbers_held(*(one.network for one in (student, *copies))) == base + 4 * (whole - base)
    assert not any(weight.requires_grad for copy in copies for weight in copy.network.parameters())
    assert all(key.split(".")[-3] in ("lora_A", "lora_B") for one in (student, *copies) for key in one.state_dict())


def test_without_an_adapter_a_copy_shares_nothing(tmp_path: Path) -> None:
    student = loaded(tmp_path, adapter=()).student
    copy = student.frozen_copy()
    assert numbers_held(student.network, copy.network) == 2 * numbers_held(teacher_network())
    assert student.state_dict().keys() == copy.state_dict().keys() == {
        f"network.{key}" for key in teacher_network().state_dict()
    }  # fmt: skip


def test_a_copy_is_what_the_student_was(tmp_path: Path) -> None:
    student = loaded(tmp_path).student
    original = student.frozen_copy()
    train_a_bit(student)
    trained = student.frozen_copy()
    now = output(student.network)
    train_a_bit(student)
    assert torch.equal(output(original.network), output(teacher_network()))
    assert torch.equal(output(trained.network), now)
    assert not torch.allclose(output(student.network), now, atol=0.1)


def test_a_copy_takes_the_student_s_weights(tmp_path: Path) -> None:
    """As a frozen teacher does that is renewed, and one that a checkpoint has."""
    student = loaded(tmp_path).student
    teacher = student.frozen_copy()
    train_a_bit(student)
    teacher.load_state_dict(student.state_dict())
    assert torch.equal(output(teacher.network), output(student.network))
    state = student.state_dict()
    state.popitem()
    with pytest.raises(RuntimeError, match="Missing key"):
        teacher.load_state_dict(state)


def test_a_copy_follows_the_student(tmp_path: Path) -> None:
    student = loaded(tmp_path).student
    average = student.frozen_copy()
    before = {key: value.clone() for key, value in average.state_dict().items()}
    train_a_bit(student)
    average.ema_update(student, 0.75, torch.tensor(1.0))
    for key, value in average.state_dict().items():
        torch.testing.assert_close(value, 0.75 * before[key] + 0.25 * student.state_dict()[key])
    for name, weight in teacher_network().named_parameters():
        place, _, kind = name.rpartition(".")
        layer = average.network.get_submodule(place)
        assert torch.equal(getattr(getattr(layer, "base_layer", layer), kind), weight)


def test_a_copy_does_not_come_between_a_forward_and_its_backward(tmp_path: Path) -> None:
    """With gradient checkpointing the backward evaluates the student once more."""
    gradients = []
    for name, checkpointing in (("plain", False), ("checkpointing", True)):
        student = loaded(tmp_path / name).student
        teacher = student.frozen_copy()
        train_a_bit(student)
        student.network.train()
        if checkpointing:
            student.network.enable_gradient_checkpointing()  # type: ignore[operator]
        z = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))
        found = student.network(z, TIMES, LABELS).sample
        aim = output(teacher.network)
        assert torch.equal(aim, output(teacher_network()))
        (found - aim).square().mean().backward()
        gradients.append(
            {name: weight.grad for name, weight in student.network.named_parameters() if weight.requires_grad}
        )
    for key, gradient in gradients[0].items():
        assert gradient is not None
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradients[1][key], gradient)


# --- a run ----------------------------------------------------------------------------------------------------------

RUN = (
    *("run.updates=40", "schedule.start=4", "source.batch=8", "optimizer.learning_rate=3e-3", "ema.decay=0.9"),
    *("evaluation.samples=200", "evaluation.every=20", "evaluation.every_samples=100", "evaluation.best=steps-2"),
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Parts]:
    """A run, and what its network was at the end: adapter on, averaged, best."""
    parts: list[Parts] = []
    folder = tmp_path_factory.mktemp("lora")
    with pytest.MonkeyPatch.context() as patch:

        def keep(made: Parts) -> None:
            parts.append(made)
            prepare(made)

        patch.setattr("distillkit.training.phase.prepare", keep)
        run(Config.of(settings(folder, "tsd", *RUN, *LORA, tables=MODEL + PLAIN + SCORED)), folder / "run")
    return Run(folder / "run"), parts[0]


def test_the_score_gets_better(trained: tuple[Run, Parts]) -> None:
    assert trained[0].score("student", 2) < 0.7 * trained[0].score("teacher", 2)


def test_the_network_s_own_weights_stay(trained: tuple[Run, Parts]) -> None:
    found = trained[1].student.network.state_dict()
    for name, weight in teacher_network().state_dict().items():
        place, _, kind = name.rpartition(".")
        assert torch.equal(found[name if name in found else f"{place}.base_layer.{kind}"], weight)


def test_checkpoints_and_best_hold_the_adapter_alone(trained: tuple[Run, Parts]) -> None:
    run, parts = trained
    adapter = {name for name, weight in parts.student.network.named_parameters() if weight.requires_grad}
    state = read_checkpoint(run.folder / "checkpoints/update-000040")
    kinds = ("network", "average", "optimizer.step", "optimizer.exp_avg", "optimizer.exp_avg_sq")
    expected = {f"engine/{kind}.{name}" for kind in kinds for name in adapter} | {"engine/updates"}
    assert {key for key in state if key.startswith("engine/")} == expected
    assert {key for key in state if key.startswith("teacher/")} == {f"teacher/network.{name}" for name in adapter}
    assert load_file(run.folder / "best.safetensors").keys() == {f"network.{name}" for name in adapter}


FUSED = """
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("runs/mine/pipeline", trust_remote_code=True)
"""
SCRIPTS = {"fused": FUSED, "docs": blocks(ROOT / "docs/lora.md", "python")[0]}
SETUP = """
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
logging.disable_progress_bar()
noise = load_file("noise.safetensors")["noise"]
"""
SAMPLE = """
pipe.set_progress_bar_config(disable=True)
images = pipe(class_labels=[0, 1, 2, 3], latents=noise, num_inference_steps=2, output_type="pt").images
save_file({{"images": images.contiguous()}}, "{name}.safetensors")
"""


def test_what_is_left_samples_the_same(trained: tuple[Run, Parts], tmp_path: Path) -> None:
    """Fused, and put into the teacher by peft as docs/lora.md does it, where there is no distillkit."""
    run, parts = trained
    shutil.copytree(run.folder, tmp_path / "runs/mine")
    shutil.copytree(TEACHER, tmp_path / "my-pipeline")
    noise = noise_for(3, range(4), (1, 8, 8))
    save_file({"noise": noise}, tmp_path / "noise.safetensors")
    script = SETUP + "".join(text + SAMPLE.format(name=name) for name, text in SCRIPTS.items())
    assert alone(script, tmp_path) == ""
    with parts.components.engine.averaged():
        samples = sample(parts.student, noise, parts.components.model.condition(torch.arange(4), 4), 2)
    expected = (samples / 2 + 0.5).clamp(0, 1)
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.3  # it is no comparison of clamped pixels
    for name in SCRIPTS:
        images = load_file(tmp_path / f"{name}.safetensors")["images"]
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_a_fused_network_has_the_teacher_s_names(trained: tuple[Run, Parts]) -> None:
    assert trained[0].weights().keys() == teacher_network().state_dict().keys()


def test_the_card_tells(trained: tuple[Run, Parts]) -> None:
    card = (trained[0].folder / "pipeline/README.md").read_text(encoding="utf-8").splitlines()
    assert "- Trained: a LoRA of rank 16, which is part of the weights here" in card


def test_a_latent_model_s_student(tmp_path: Path) -> None:
    """The autoencoder has no part in it."""
    teacher = latent_pipeline(tmp_path / "teacher", prediction_type="v_prediction")
    rates = ("optimizer.learning_rate=1e-2", "optimizer.final_learning_rate=1e-2", "ema.decay=0.5")
    run, made = distil_folder(tmp_path, teacher, "dsdi", *LORA, *rates)
    weights = load_file(run.folder / "lora/pytorch_lora_weights.safetensors")
    assert {key.split(".")[0] for key in weights} == {"unet"}
    assert_same_weights(teacher / "vqvae", run.folder / "pipeline/vqvae")
    images = own(load_folder(run.folder / "pipeline"), NOISE, 2)
    with made.engine.averaged():
        torch.testing.assert_close(images, own(made.model, NOISE, 2), rtol=0, atol=1e-5)
    assert (images - own(load_folder(teacher), NOISE, 2)).abs().max() > 1e-3


def test_kept_trajectories_know_the_network_beneath(tmp_path: Path) -> None:
    parts = loaded(tmp_path)
    teacher = parts.components.teacher
    assert teacher is not None
    prepare(parts)
    before = teacher_of(parts.student, teacher)
    with torch.no_grad():
        parts.student.network.conv_in.base_layer.weight += 1  # type: ignore[union-attr, operator]
    assert teacher_of(parts.student, teacher) != before


# --- mistakes -------------------------------------------------------------------------------------------------------

NAMES = "conv_in, linear_1, linear_2, conv1, time_emb_proj, conv2, conv, to_q, to_k, to_v, to_out.0, conv_shortcut"

MISTAKES = {
    "no such layer": (
        ('student.target_modules=["to_q", "to_x"]',),
        MODEL,
        "student.target_modules: no linear or convolution layer of the network is called 'to_x'; they are called "
        f"{NAMES}, conv_out, or in full as 'conv_out'",
    ),
    "a layer of another kind": (
        ("student.target_modules=['conv_norm_out']",),
        MODEL,
        "student.target_modules: no linear or convolution layer of the network is called 'conv_norm_out'; they are "
        f"called {NAMES}, conv_out, or in full as 'conv_out'",
    ),
    "a new network": (
        (),
        SMALL.partition("[tracker]")[0],
        "{file}: 1 error\n  student: adapts a trained network, but the model is a new one: remove [student]",
    ),
    "a new layer": (
        ("model.guidance_input=[1.0, 3.0]", "teacher.type=guided", "target.form=last", "target.stride=1"),
        MODEL,
        "{file}: 1 error\n  student: adapts trained weights, but model.guidance_input adds a new layer: train it "
        "without [student] first, and distil the result (see [[phase]])",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_the_network_shows_to_be_wrong(tmp_path: Path, case: str) -> None:
    assignments, model, message = MISTAKES[case]
    with pytest.raises(DistillkitError) as caught:
        run(Config.of(settings(tmp_path, "tsd", *TINY, *LORA, *assignments, tables=model + PLAIN)), tmp_path / "run")
    assert str(caught.value) == message.format(file=tmp_path / "mine.toml")
    assert not (tmp_path / "run").exists()


def test_a_model_that_takes_no_adapter() -> None:
    """Others' models need not know of adapters."""
    with pytest.raises(DistillkitError, match=r"^student: the model 'tiny' takes no adapter; leave out \[student\]$"):
        TinyModel(TinyModel.Options()).adapt(StudentTable(adapter="lora"))
