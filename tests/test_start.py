"""Students that begin with another one's weights: LoRAs, chains of them, and what is loaded for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from helpers.digits import MODEL, PLAIN, TEACHER, Run, read_checkpoint, settings
from helpers.networks import latent_pipeline, live_bytes, tables
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillkit.config import read_config
from distillkit.errors import ConfigError, DistillkitError
from distillkit.training.assemble import Parts, load
from distillkit.training.run import run
from distillkit.training.start import read_start

CHAIN = f"""
[run]
name = "two"
[student]
guidance = "baked"
adapter = "lora"
rank = 2
alpha = 3
[source]
guidance = 1.5
batch = 3
trajectories = 8
levels = [1, 2]
level_weights = [1, 1]
[schedule]
steps = 2
[grid]
start = "auto"
[optimizer]
learning_rate = 1e-2
[evaluation]
steps = [2]
teacher = false
grid = 2
{MODEL}
[tracker]
type = "none"
[[phase]]
preset = "any-step"
run = {{ updates = 3 }}
[[phase]]
preset = "dmd"
run = {{ updates = 4, checkpoint_every = 1, keep = 9 }}
critic = {{ warmup = 0.3 }}
student = {{ start = "previous" }}
"""


def matrices(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "lora/pytorch_lora_weights.safetensors")


def student_of(folder: Path, *assignments: str, model: str = MODEL) -> Parts:
    """A loaded student, which takes the step size as those of the chain."""
    folder.mkdir()
    return load(
        settings(folder, "dmd", "run.updates=1", "grid.start=auto", *assignments, tables=model + PLAIN).components()
    )


LORA = "student={adapter='lora', rank=2, alpha=3}"


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished chain of two LoRAs on one network."""
    top = tmp_path_factory.mktemp("chain")
    (top / "two.toml").write_text(CHAIN, encoding="utf-8")
    run(read_config(top / "two.toml", [f"source.folder={top / 'trajectories'}"]), top / "run")
    return top


def test_a_chain_of_loras_has_one_network(chain: Path, tmp_path: Path) -> None:
    """The second begins with the first one's matrices and step input; its teacher and its critic are the network."""
    before, after = (Run(chain / f"run/phases/{i}") for i in (1, 2))
    first, begun = matrices(before.folder), read_checkpoint(after.folder / "checkpoints/update-000001")
    assert any(value.abs().max() > 0 for name, value in first.items() if "lora_B" in name)
    for owner in ("network", "average"):
        for name, value in first.items():
            key = f"engine/{owner}.{name.removeprefix('unet.').replace('.weight', '.default.weight')}"
            factor = 1.5 if "lora_B" in name else 1.0
            torch.testing.assert_close(factor * begun[key], value, rtol=0, atol=1e-7)
        inputs = load_file(before.folder / "pipeline/step_input.safetensors")
        for name in (name for name in inputs if name.startswith("step_embedding")):
            torch.testing.assert_close(begun[f"engine/{owner}.{name}"], inputs[name], rtol=0, atol=0)
    assert not any(value.any() for key, value in begun.items() if key.startswith("teacher/") and "lora_B" in key)
    # The teacher's trajectories were made once.
    assert len([*(chain / "trajectories").iterdir()]) == 1
    # What the run has is the last one's, for the network that the run started from.
    assert all(torch.equal(value, matrices(after.folder)[name]) for name, value in matrices(chain / "run").items())
    whole, base = Run(chain / "run").weights(), load_file(TEACHER / "unet/diffusion_pytorch_model.safetensors")
    for name, value in matrices(chain / "run").items():
        if "lora_B" in name:
            layer = name.removeprefix("unet.").removesuffix(".lora_B.weight")
            delta = value.flatten(1) @ matrices(chain / "run")[name.replace("lora_B", "lora_A")].flatten(1)
            merged = base[f"{layer}.weight"].float() + delta.view_as(base[f"{layer}.weight"])
            torch.testing.assert_close(whole[f"{layer}.weight"], merged, rtol=1e-5, atol=1e-6)
            assert not torch.equal(value, first[name])
    # Killed in the second phase, it goes on to the same, also where it is moved.
    moved = tmp_path / "moved"
    shutil.copytree(chain / "run", moved)
    for part in ("pipeline", "lora", "phases/2/pipeline", *(f"phases/2/checkpoints/update-00000{i}" for i in (3, 4))):
        shutil.rmtree(moved / part)
    run(read_config(chain / "two.toml", [f"source.folder={chain / 'trajectories'}"]), moved, resume=True)
    assert all(torch.equal(value, whole[name]) for name, value in Run(moved).weights().items())
    assert matrices(moved).keys() == first.keys()


def test_a_student_starts_with_the_lora_of_a_run(chain: Path, tmp_path: Path) -> None:
    """With a run's own, that of a phase, or whole: a pipeline has the matrices merged."""
    parts = student_of(tmp_path / "lora", LORA)
    trained = {name for name, weight in parts.student.network.named_parameters() if weight.requires_grad}
    assert read_start(parts, chain / "run").keys() == read_start(parts, chain / "run/phases/2").keys() == trained
    found = read_start(student_of(tmp_path / "whole"), chain / "run")
    exported = Run(chain / "run").weights()
    assert torch.equal(found["conv_in.weight"], exported["conv_in.weight"])


def spoiled(chain: Path, folder: Path) -> str:
    """The model, with another norm."""
    shutil.copytree(TEACHER, folder)
    file = folder / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_norm_out.weight"] = weights["conv_norm_out.weight"] * 1.01
    save_file(weights, file, metadata={"format": "pt"})
    return MODEL.replace(str(TEACHER), str(folder))


OTHERS = {
    "another rank": (LORA.replace("2", "4"), "has the rank 2, and student.rank is 4; set student.rank = 2"),
    "other layers": (
        LORA.replace("}", ", target_modules=['to_q']}"),
        r"has matrices for other layers than the student: they differ in '\S+'; set student.target_modules to",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_lora_that_does_not_fit(chain: Path, tmp_path: Path, case: str) -> None:
    option, message = OTHERS[case]
    with pytest.raises(DistillkitError, match=rf"^student\.start: \S+lora\S+ {message}"):
        read_start(student_of(tmp_path / "new", option), chain / "run")


def test_a_lora_of_another_network(chain: Path, tmp_path: Path) -> None:
    model = spoiled(chain, tmp_path / "model")
    message = r"^student\.start: the LoRA beside \S+pipeline was made for another .* they differ in 'conv_norm_out"
    with pytest.raises(DistillkitError, match=message):
        read_start(student_of(tmp_path / "new", LORA, model=model), chain / "run")


def test_a_start_that_is_no_lora(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain / "run/pipeline", tmp_path / "whole")
    with pytest.raises(DistillkitError, match=r"^student\.start: the student is a LoRA, and there is no \S+; give the"):
        read_start(student_of(tmp_path / "new", LORA), tmp_path / "whole")


ADAPTER = 'adapter = "lora"\nrank = 2\nalpha = 3\n'
PREVIOUS = {
    "a phase before that has none": (
        CHAIN.replace(ADAPTER, ""),
        "phase[1].student.adapter=lora",
        r"phase\[1\]\.student\.adapter: is one, and the phase before trains all weights",
    ),
    "another rank": (CHAIN, "phase[1].student.rank=4", r"phase\[1\]\.student\.rank: must be that .*: 2 \(got 4\)"),
    "one of a network in between": (
        CHAIN.replace("[[phase]]", '[[phase]]\npreset = "any-step"\nrun = { updates = 3 }\n[[phase]]', 1),
        "run.seed=1",
        r"phase\[2\]\.student\.start: .* is not on the first phase's network; give the phase before start = \"prev",
    ),
}


@pytest.mark.parametrize("case", PREVIOUS)
def test_phases_that_do_not_fit_are_refused_before_the_first(tmp_path: Path, case: str) -> None:
    text, option, message = PREVIOUS[case]
    (tmp_path / "two.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_config(tmp_path / "two.toml", [option])


def test_nothing_but_the_network_is_read(tmp_path: Path) -> None:
    """Neither the autoencoder nor a scheduler; as many bytes as the network has."""
    latent_pipeline(tmp_path / "model")
    options = ("run.updates=1", "schedule.steps=4", "source.batch=2")
    parts = load(settings(tmp_path, "luhman", *options, tables=tables(tmp_path / "model")).components())
    shutil.copytree(tmp_path / "model/unet", tmp_path / "start/unet")
    before = live_bytes()
    found = read_start(parts, tmp_path / "start")
    size = sum(weight.nbytes for weight in parts.student.network.parameters())
    assert len(found) > 10
    assert size <= live_bytes() - before < 1.02 * size
