"""Class-conditional latent diffusion: cin256-v2 in small, from CompVis' checkpoint to a distilled pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel, VQModel
from distillkit_diffusers.model import DiffusersModel
from distillkit_diffusers.pipelines.class_conditional import ClassLatentPipeline
from distillkit_diffusers.pipelines.class_embedder import ClassEmbedder
from helpers.compvis.configs import tiny_class_conditional
from helpers.compvis.model import LatentDiffusion, class_conditional_teacher
from helpers.digits import Run, distil, read_checkpoint
from helpers.pipelines import alone
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillkit.errors import DistillkitError
from distillkit.noise import Predictor
from distillkit.sampling import sample

NULL = 10


@pytest.fixture(scope="module")
def network() -> LatentDiffusion:
    """In plain torch."""
    return LatentDiffusion(tiny_class_conditional()["model"]["params"])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, converted."""
    return class_conditional_teacher(tmp_path_factory.mktemp("teacher"))


def load(path: Path, **options: Any) -> DiffusersModel:
    model = DiffusersModel(DiffusersModel.Options(path=path, **options))
    assert [*model.check()] == []
    model.load()
    return model


def draw(model: DiffusersModel, noise: Tensor, steps: int, guidance: float) -> Tensor:
    """Our latents of the classes 0, 1, … [B, C, H, W]."""
    predictor = Predictor(model.network, model.spec.path, model.spec.prediction, model.forward)
    scales = None if guidance == 1 else torch.full((len(noise),), guidance)
    return sample(predictor, noise, model.condition(torch.arange(len(noise)), len(noise), scales), steps)


def noises(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_what_it_is(teacher: Path) -> None:
    model = load(teacher)
    assert (model.spec.sample_shape, model.spec.classes, model.spec.supports_guidance) == ((3, 8, 8), 10, True)
    assert (model.spec.prediction, model.spec.path.grid(4).tolist()[0]) == ("epsilon", 751)
    assert model.encode(torch.zeros(2, 3, 16, 16)).shape == (2, 3, 8, 8)
    assert model.decode(torch.zeros(2, 3, 8, 8)).shape == (2, 3, 16, 16)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_our_ddim_is_the_pipelines(teacher: Path, guidance: float) -> None:
    """At CompVis' own times, but for the last step: ours lands on clean data."""
    model = load(teacher)
    scheduler = DDIMScheduler.from_pretrained(teacher / "scheduler", set_alpha_to_one=True)
    pipe = ClassLatentPipeline(
        VQModel.from_pretrained(teacher / "vqvae"),
        UNet2DConditionModel.from_pretrained(teacher / "unet"),
        ClassEmbedder.from_pretrained(teacher / "class_embedder"),
        scheduler,
        null_class=NULL,
    )
    pipe.set_progress_bar_config(disable=True)
    asked = {"num_inference_steps": 5, "guidance_scale": guidance, "latents": noises()}
    latents = draw(model, noises(), 5, guidance)
    torch.testing.assert_close(pipe([0, 1, 2, 3], **asked, output_type="latent").images, latents, rtol=0, atol=1e-4)
    assert latents.std() > 0.5
    expected = (model.decode(latents) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pipe([0, 1, 2, 3], **asked, output_type="pt").images, expected, rtol=0, atol=1e-4)


def test_classes_are_told_apart_from_none(teacher: Path) -> None:
    model = load(teacher)
    table = load_file(teacher / "class_embedder/diffusion_pytorch_model.safetensors")["embedding.weight"]
    condition = model.condition(torch.tensor([3, -1]), 2, torch.tensor([2.0, 2.0]))
    assert torch.equal(condition.inputs["encoder_hidden_states"], table[[3, NULL]][:, None])
    assert condition.null is not None
    assert torch.equal(condition.null["encoder_hidden_states"], table[[NULL, NULL]][:, None])
    assert not condition.inputs["encoder_hidden_states"].requires_grad
    with pytest.raises(DistillkitError, match=r"^class 11: the model has classes 0 to 9$"):
        model.condition(torch.tensor([11]), 1)


def test_the_scaling_factor_is_what_the_folder_says(teacher: Path, tmp_path: Path) -> None:
    images, vqvae = torch.rand(1, 3, 16, 16) * 2 - 1, VQModel.from_pretrained(teacher / "vqvae")
    with torch.no_grad():
        latents = vqvae.encode(images).latents
        pictures = vqvae.decode(latents).sample
    torch.testing.assert_close(load(teacher).encode(images), latents)
    torch.testing.assert_close(load(teacher).decode(latents), pictures)
    folder = shutil.copytree(teacher, tmp_path / "copy")
    change(folder / "vqvae/config.json", scaling_factor=0.5)
    torch.testing.assert_close(load(folder).encode(images), latents / 2)
    torch.testing.assert_close(load(folder).decode(latents / 2), pictures)


# --- a run -----------------------------------------------------------------------------------------------------------

TABLES = """
[model]
type = "diffusers"
path = "{path}"
[tracker]
type = "none"
"""
SETTINGS = (
    "run.updates=3", "schedule.start=4", "source.batch=2", "source.guidance=[1.0, 3.0]", "evaluation.guidance=2.0",
    "evaluation.steps=[2]", "evaluation.grid=2", "evaluation.export_steps=2", "run.checkpoint_every=3",
)  # fmt: skip
SAMPLE = """
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
logging.disable_progress_bar()
asked = {"class_labels": [0, 1, 2, 3], "latents": load_file("noise.safetensors")["noise"]}

pipe = DiffusionPipeline.from_pretrained("run/pipeline", trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
# Steps and guidance are the pipeline's own.
images = pipe(**asked, output_type="pt").images
assert [image.size for image in pipe(**asked).images] == [(16, 16)] * 4

pipe = DiffusionPipeline.from_pretrained("teacher", trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
latents = pipe(**asked, num_inference_steps=5, guidance_scale=2.5, output_type="latent").images
save_file({"images": images.contiguous(), "latents": latents.contiguous()}, "drawn.safetensors")
"""


@pytest.fixture(scope="module")
def run(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return distil(tmp_path_factory.mktemp("run"), "dsdi", *SETTINGS, tables=TABLES.format(path=teacher))


def test_only_the_unet_changes(teacher: Path, run: Run) -> None:
    assert all(line["evaluations"] == 2 for line in run.journal)
    weights = "diffusion_pytorch_model.safetensors"
    for part in ("vqvae", "class_embedder"):
        assert (run.folder / "pipeline" / part / weights).read_bytes() == (teacher / part / weights).read_bytes()
    before, after = load_file(teacher / "unet" / weights), run.weights()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_state_is_that_of_the_unet_alone(run: Run) -> None:
    """16 bytes a parameter with Adam, and 4 for the average; nothing of the frozen parts."""
    state = read_checkpoint(run.folder / "checkpoints/update-000003")
    per_weight = {name.partition(".")[0] for name in state if name.startswith("engine/") and state[name].ndim}
    sizes = sum(tensor.numel() for name, tensor in state.items() if name.startswith("engine/"))
    count = sum(weight.numel() for weight in run.weights().values())
    # Weights, average, and Adam's two moments; gradients are not kept.
    assert sizes == pytest.approx(4 * count, rel=0.05), per_weight


def test_stock_diffusers_samples_as_we_do(teacher: Path, network: LatentDiffusion, run: Run) -> None:
    model = load(run.folder / "pipeline")
    model.spec = model.spec.with_grid("trailing", None)
    index = json.loads((run.folder / "pipeline/model_index.json").read_text(encoding="utf-8"))
    assert (index["num_inference_steps"], index["guidance_scale"], index["null_class"]) == (2, 2.0, NULL)
    assert index["_class_name"] == ["class_conditional", "ClassLatentPipeline"]
    top = run.folder.parent
    shutil.copytree(teacher, top / "teacher")
    save_file({"noise": noises()}, top / "noise.safetensors")
    assert alone(SAMPLE, top) == ""
    drawn = load_file(top / "drawn.safetensors")
    expected = (model.decode(draw(model, noises(), 2, 2.0)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(drawn["images"], expected, rtol=0, atol=1e-5)
    # What was not distilled samples as CompVis' code did.
    expected = network.sample(noises(), 5, torch.arange(4), NULL, 2.5)
    torch.testing.assert_close(drawn["latents"], expected, rtol=0, atol=1e-4)
    card = (run.folder / "pipeline/README.md").read_text(encoding="utf-8")
    assert "pipe(class_labels=[0, 1, 2, 3], num_inference_steps=2)" in card
    assert "class_conditional.py" in card


# --- what does not fit -----------------------------------------------------------------------------------------------


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.fixture
def folder(teacher: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(teacher, tmp_path / "teacher")


def test_parts_that_are_missing(folder: Path) -> None:
    shutil.rmtree(folder / "class_embedder")
    [mistake] = DiffusersModel(DiffusersModel.Options(path=folder)).check()
    expected = f"{folder} has no class_embedder/config.json, which ClassLatentPipeline needs"
    assert str(mistake) == f"path: {expected}"


def test_another_network(folder: Path) -> None:
    change(folder / "unet/config.json", _class_name="UNet2DModel")
    [mistake] = DiffusersModel(DiffusersModel.Options(path=folder)).check()
    file = folder / "unet/config.json"
    assert str(mistake) == f"path: {file}: the network is a UNet2DModel; supported: UNet2DConditionModel"


def test_options_that_mean_nothing(folder: Path) -> None:
    [mistake] = DiffusersModel(DiffusersModel.Options(path=folder, guidance_input=(1.0, 3.0))).check()
    assert str(mistake) == "guidance_input: means nothing to ClassLatentPipeline; leave it out"


def test_an_embedding_of_another_width(folder: Path) -> None:
    ClassEmbedder(11, 16).save_pretrained(folder / "class_embedder")
    with pytest.raises(DistillkitError) as caught:
        load(folder)
    where = folder / "class_embedder"
    assert str(caught.value) == f"model.path: the embedding in {where} is 16 wide, and the U-Net takes 24"


def test_latents_of_another_shape(folder: Path) -> None:
    VQModel(block_out_channels=(32,), latent_channels=4, num_vq_embeddings=8).save_pretrained(folder / "vqvae")
    with pytest.raises(DistillkitError) as caught:
        load(folder)
    assert str(caught.value) == (
        f"model.path: the autoencoder in {folder / 'vqvae'} makes latents of 4 channels, and the U-Net takes 3"
    )


def test_a_null_class_that_is_not_the_last(folder: Path) -> None:
    with pytest.raises(DistillkitError) as caught:
        load(folder, null_class=9)
    assert str(caught.value) == "model.null_class: 9; expected the embedding's last class, 10"


def test_guidance_without_a_null_class(folder: Path) -> None:
    change(folder / "model_index.json", null_class=None)
    model = load(folder)
    assert (model.spec.classes, model.spec.supports_guidance) == (11, False)
    with pytest.raises(DistillkitError, match=r"^guidance: the model has no null class, which guidance compares with"):
        model.condition(torch.tensor([1]), 1, torch.ones(1))
    pipe = ClassLatentPipeline(None, None, None, None)
    with pytest.raises(ValueError, match=r"^guidance_scale must be 1 \(got 2\): the model has no null class"):
        pipe([0], guidance_scale=2)
