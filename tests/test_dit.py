"""DiTs, built tiny by diffusers: sampled as DiTPipeline samples them, distilled, and exported for it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline
from distillkit_diffusers.model import DiffusersModel
from helpers.digits import Run, distil, read_checkpoint
from helpers.networks import ddim_scheduler, dit, kl_autoencoder
from helpers.pipelines import alone
from safetensors.torch import load_file
from torch import Tensor

from distillkit.errors import DistillkitError
from distillkit.noise import Predictor
from distillkit.sampling import sample

WEIGHTS = "diffusion_pytorch_model.safetensors"
NAMES = {"0": "tench, Tinca tinca", "1": "goldfish"}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as diffusers writes it, with classes' names, as DiT's own have them."""
    folder = tmp_path_factory.mktemp("dit") / "teacher"
    DiTPipeline(dit(), kl_autoencoder(), ddim_scheduler()).save_pretrained(folder)
    change(folder / "model_index.json", id2label=NAMES)
    return folder


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def load(path: Path, **options: Any) -> DiffusersModel:
    model = DiffusersModel(DiffusersModel.Options(path=path, **options))
    assert [*model.check()] == []
    model.load()
    model.network.eval()
    return model


def noises() -> Tensor:
    """As DiTPipeline draws them."""
    return torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(3))


def draw(model: DiffusersModel, steps: int, guidance: float) -> Tensor:
    """Our pictures of the classes 0 to 3, in [0, 1]."""
    predictor = Predictor(model.network, model.spec.path, model.spec.prediction, model.forward)
    scales = None if guidance == 1 else torch.full((4,), guidance)
    latents = sample(predictor, noises(), model.condition(torch.arange(4), 4, scales), steps)
    return (model.decode(latents) / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    ("kind", "steps", "channels"), [("epsilon", 8, 8), ("v_prediction", 4, 8), ("v_prediction", 5, 4)]
)
def test_our_ddim_is_the_pipelines(tmp_path: Path, kind: str, steps: int, channels: int, guidance: float) -> None:
    """From the noisiest time to clean data."""
    made = DiTPipeline(dit(out_channels=channels), kl_autoencoder(), ddim_scheduler(prediction_type=kind))
    made.save_pretrained(tmp_path)
    pipe = DiTPipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    asked = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "pt", "generator": generator}
    expected = pipe([0, 1, 2, 3], **asked).images
    model = load(tmp_path)
    model.spec = model.spec.with_grid("trailing", None)
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.3  # it is no comparison of clamped pixels
    torch.testing.assert_close(draw(model, steps, guidance), expected, rtol=0, atol=1e-4)


def test_what_it_is(teacher: Path) -> None:
    model = load(teacher)
    assert (model.spec.sample_shape, model.spec.classes, model.spec.supports_guidance) == ((4, 8, 8), 1000, True)
    condition = model.condition(torch.tensor([3, -1]), 2, torch.tensor([2.0, 2.0]))
    assert condition.inputs["class_labels"].tolist() == [3, 1000]
    assert condition.null is not None
    assert condition.null["class_labels"].tolist() == [1000, 1000]
    assert model.encode(torch.zeros(2, 3, 16, 16)).shape == (2, 4, 8, 8)


def test_a_folder_from_before_the_transformer_had_a_class_of_its_own(teacher: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher, tmp_path / "old")
    old = {"norm_type": "ada_norm_zero", "cross_attention_dim": None, "use_linear_projection": False}
    change(folder / "transformer/config.json", _class_name="Transformer2DModel", **old)
    change(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    torch.testing.assert_close(draw(load(folder), 2, 3.0), draw(load(teacher), 2, 3.0))


def test_other_classes_are_not_guided(tmp_path: Path) -> None:
    """DiTPipeline's null class is 1000 for all networks."""
    DiTPipeline(dit(num_embeds_ada_norm=10), kl_autoencoder(), ddim_scheduler()).save_pretrained(tmp_path)
    model = load(tmp_path)
    assert (model.spec.classes, model.spec.supports_guidance) == (10, False)
    assert model.condition(torch.tensor([9]), 1).null is None
    with pytest.raises(DistillkitError, match=r"^class 10: the model has classes 0 to 9$"):
        model.condition(torch.tensor([10]), 1)


def test_labels_are_not_dropped_by_each_block_alone(teacher: Path) -> None:
    """In training mode as well: `source.drop_labels` does it, for all blocks at once."""
    model = load(teacher)
    torch.manual_seed(0)
    inputs = dict(model.condition(torch.arange(64), 64).inputs)
    z, t = torch.randn(64, 4, 8, 8), torch.full((64,), 500)
    with torch.no_grad():
        expected = model.forward(model.network, z, t, inputs)
        torch.testing.assert_close(model.forward(model.network.train(), z, t, inputs), expected, rtol=0, atol=1e-6)


# --- a run -----------------------------------------------------------------------------------------------------------

TABLES = """
[model]
type = "diffusers"
path = "{path}"
[tracker]
type = "none"
"""
SETTINGS = (
    "run.updates=3", "schedule.start=4", "source.batch=2", "source.guidance=4.0", "evaluation.guidance=4.0",
    "evaluation.steps=[2]", "evaluation.grid=2", "run.checkpoint_every=3",
)  # fmt: skip
SAMPLE = """
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging
from safetensors.torch import save_file
logging.disable_progress_bar()
pipe = DiffusionPipeline.from_pretrained("run/pipeline")
pipe.set_progress_bar_config(disable=True)
asked = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "pt"}
images = pipe(class_labels=pipe.get_label_ids(["tench", "goldfish"]) + [2, 3], **asked,
              generator=torch.Generator().manual_seed(3)).images
save_file({"images": images.contiguous()}, "drawn.safetensors")
"""


@pytest.fixture(scope="module")
def run(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return distil(tmp_path_factory.mktemp("run"), "dsdi", *SETTINGS, tables=TABLES.format(path=teacher))


def weights(folder: Path, part: str) -> dict[str, Tensor]:
    return load_file(folder / part / WEIGHTS)


def test_only_the_transformer_changes(teacher: Path, run: Run) -> None:
    assert (run.folder / "pipeline/vae" / WEIGHTS).read_bytes() == (teacher / "vae" / WEIGHTS).read_bytes()
    before, after = weights(teacher, "transformer"), weights(run.folder / "pipeline", "transformer")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    # The variance: half of the last layer's outputs, for each of the 2 × 2 places of a patch.
    last = "proj_out_2.weight"
    changed = (before[last] != after[last]).any(1).view(2, 2, 8)
    assert changed[..., :4].all()
    assert not changed[..., 4:].any()


def test_state_is_that_of_the_transformer_alone(run: Run) -> None:
    state = read_checkpoint(run.folder / "checkpoints/update-000003")
    kept = sum(tensor.numel() for name, tensor in state.items() if name.startswith("engine/"))
    count = sum(weight.numel() for weight in weights(run.folder / "pipeline", "transformer").values())
    # Weights, their average, and Adam's two moments.
    assert kept == pytest.approx(4 * count, rel=0.01)


def test_stock_diffusers_samples_as_we_do(run: Run) -> None:
    """And as the model card says."""
    top = run.folder.parent
    card = (run.folder / "pipeline/README.md").read_text(encoding="utf-8")
    [snippet] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "guidance_scale=4, num_inference_steps=2)" in snippet
    snippet = snippet.replace("path/to/this/folder", "run/pipeline")
    found = alone(f"{SAMPLE}\n{snippet}assert [image.size for image in images] == [(16, 16)] * 4\n", top)
    # JSON has no numbers for keys; diffusers says so of the original folders, too. Progress bars are the snippet's.
    complaints = [line for line in found.splitlines() if line and "%|" not in line]
    assert all(line.startswith("Expected types for id2label: ") for line in complaints), complaints
    model = load(run.folder / "pipeline")
    model.spec = model.spec.with_grid("trailing", None)
    expected = draw(model, 2, 4.0)
    assert expected.std() > 0.05
    torch.testing.assert_close(load_file(top / "drawn.safetensors")["images"], expected, rtol=0, atol=1e-5)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_latents_of_another_shape(teacher: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    kl_autoencoder(latent_channels=3).save_pretrained(folder / "vae")
    with pytest.raises(DistillkitError) as caught:
        load(folder)
    assert str(caught.value) == (
        f"model.path: the autoencoder in {folder / 'vae'} makes latents of 3 channels, and the network takes 4"
    )


def test_a_network_that_makes_something_else(teacher: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    dit(out_channels=6).save_pretrained(folder / "transformer")
    with pytest.raises(DistillkitError) as caught:
        load(folder)
    assert str(caught.value) == (
        f"model.path: the network in {folder / 'transformer'} makes 6 channels of 4; expected as many, or twice as "
        "many (with a variance)"
    )


def test_no_autoencoder(teacher: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher, tmp_path / "teacher")
    shutil.rmtree(folder / "vae")
    mistakes = DiffusersModel(DiffusersModel.Options(path=folder, null_class=1000)).check()
    assert [str(mistake) for mistake in mistakes] == [
        "null_class: means nothing to DiTPipeline; leave it out",
        f"path: {folder} has no vae/config.json, which DiTPipeline needs",
    ]


def test_zero_terminal_snr_with_epsilon(teacher: Path) -> None:
    options = DiffusersModel.Options(path=teacher, scheduler={"rescale_betas_zero_snr": True})
    [mistake] = DiffusersModel(options).check()
    assert str(mistake).startswith("scheduler.rescale_betas_zero_snr: is true; expected false, as the last time would")
