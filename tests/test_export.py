"""Exported pipelines: loaded by stock diffusers where there is no distillkit, and sampling as distillkit does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, UNet2DModel
from distillkit_diffusers.model import DiffusersModel
from distillkit_diffusers.pipelines.class_conditional import ClassConditionalPipeline
from helpers.digits import MODEL, PLAIN, SCORED, TEACHER, distil, read_checkpoint
from helpers.pipelines import alone
from safetensors.torch import load_file, save_file

from distillkit.files import replacing
from distillkit.interfaces import Export, Sampler
from distillkit.noise import Predictor
from distillkit.reading import way
from distillkit.sampling import noise_for, sample, sample_consistency

# diffusers' DPM-Solver has not kept up with numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def model(kind: str, conditional: bool, **scheduler: Any) -> DiffusersModel:
    """A model with a tiny network of random weights whose outputs are not small."""
    made = DiffusersModel(
        DiffusersModel.Options(
            network={
                "sample_size": 8,
                "in_channels": 1,
                "out_channels": 1,
                "block_out_channels": [8, 8],
                "norm_num_groups": 4,
                "layers_per_block": 1,
                "down_block_types": ["DownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "UpBlock2D"],
                "num_class_embeds": 5 if conditional else None,
            },
            scheduler={"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
            | {"prediction_type": kind}
            | scheduler,
            null_class=4 if conditional else None,
        )
    )
    torch.manual_seed(1)
    made.load()
    made.network.eval()
    return made


def write(made: DiffusersModel, folder: Path, steps: int, guidance: float = 1.0, sampler: Sampler = "ddim") -> None:
    settings = {"run": {"name": "tiny", "updates": 3}}
    export = Export(made.spec.path, steps, [steps], guidance, "dsdi", "a teacher", [], settings, sampler)
    made.export(made.network, folder, export)


def draw(
    made: DiffusersModel, noises: torch.Tensor, conditional: bool, guidance: float, sampler: Sampler
) -> torch.Tensor:
    """Our pictures, from the noises [steps, 4, C, H, W] that the sampler uses one after another (DDIM: the first)."""
    predictor = Predictor(made.network, made.spec.path, made.spec.prediction, made.forward)
    condition = made.condition(
        torch.arange(4) if conditional else None, 4, None if guidance == 1 else torch.full((4,), guidance)
    )
    if sampler == "consistency":
        samples = sample_consistency(predictor, lambda step: noises[step], condition, len(noises))
    else:
        samples = sample(predictor, noises[0], condition, len(noises))
    return (samples / 2 + 0.5).clamp(0, 1)


CASES: dict[str, tuple[dict[str, Any], str, int | None, int, float]] = {
    # model options, spacing, start, steps, guidance
    "v, 4 steps": ({"kind": "v_prediction", "conditional": True}, "trailing", None, 4, 1.0),
    "v, guidance": ({"kind": "v_prediction", "conditional": True}, "trailing", None, 2, 2.5),
    "v, 32 steps": ({"kind": "v_prediction", "conditional": True}, "trailing", None, 32, 1.0),
    "v, 64 steps, guidance": ({"kind": "v_prediction", "conditional": True}, "trailing", None, 64, 1.5),
    "ε, cut at 399, 8 steps": ({"kind": "epsilon", "conditional": True}, "trailing", 399, 8, 2.0),
    "ε, cut at 250, 3 steps": ({"kind": "epsilon", "conditional": True}, "trailing", 250, 3, 1.0),
    "x, leading, 4 steps": ({"kind": "sample", "conditional": True}, "leading", None, 4, 1.0),
    "v, leading, 7 steps": ({"kind": "v_prediction", "conditional": True}, "leading", None, 7, 1.0),
    "v, linspace, 8 steps": ({"kind": "v_prediction", "conditional": True}, "linspace", None, 8, 2.0),
    "x, linspace, cut at 799": ({"kind": "sample", "conditional": True}, "linspace", 799, 4, 1.0),
    "v, cosine, 4 steps": (
        {"kind": "v_prediction", "conditional": True, "beta_schedule": "squaredcos_cap_v2"},
        "trailing",
        None,
        4,
        1.0,
    ),
    "v, zero terminal SNR, 4 steps": (
        {"kind": "v_prediction", "conditional": True, "rescale_betas_zero_snr": True},
        "trailing",
        None,
        4,
        1.0,
    ),
    "v, sigmoid betas, 4 steps": (
        {"kind": "v_prediction", "conditional": True, "_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"}
        | {"clip_sample": False},
        "trailing",
        None,
        4,
        1.0,
    ),
    "plain v, laplace betas, 6 steps": (
        {"kind": "v_prediction", "conditional": False, "_class_name": "DDPMScheduler", "beta_schedule": "laplace"}
        | {"clip_sample": False},
        "trailing",
        None,
        6,
        1.0,
    ),
    "v, 1 step": ({"kind": "v_prediction", "conditional": True}, "trailing", None, 1, 1.0),
    "plain v, 4 steps": ({"kind": "v_prediction", "conditional": False}, "trailing", None, 4, 1.0),
    "plain v, 48 steps": ({"kind": "v_prediction", "conditional": False}, "trailing", None, 48, 1.0),
    "plain ε, cut at 399, 2 steps": ({"kind": "epsilon", "conditional": False}, "trailing", 399, 2, 1.0),
    "plain x, cut at 831, 6 steps": ({"kind": "sample", "conditional": False}, "trailing", 831, 6, 1.0),
    "plain v, linspace, 4 steps": ({"kind": "v_prediction", "conditional": False}, "linspace", None, 4, 1.0),
    "plain x, leading, 5 steps": ({"kind": "sample", "conditional": False}, "leading", 799, 5, 1.0),
    "consistency, v, 1 step": ({"kind": "v_prediction", "conditional": True}, "trailing", None, 1, 1.0),
    "consistency, v, 4 steps, guidance": ({"kind": "v_prediction", "conditional": True}, "trailing", None, 4, 2.0),
    "consistency, ε, cut at 250, 3 steps": ({"kind": "epsilon", "conditional": True}, "trailing", 250, 3, 1.0),
    "consistency, plain v, 6 steps": ({"kind": "v_prediction", "conditional": False}, "trailing", None, 6, 1.0),
    "consistency, plain x, cut at 831, 7 steps": ({"kind": "sample", "conditional": False}, "trailing", 831, 7, 1.0),
    "consistency, v, 4 of 50 steps": (
        {"kind": "v_prediction", "conditional": True, "_class_name": "LCMScheduler", "original_inference_steps": 50},
        "trailing",
        None,
        4,
        1.0,
    ),
    "consistency, plain v, zero terminal SNR, 2 steps": (
        {"kind": "v_prediction", "conditional": False, "rescale_betas_zero_snr": True},
        "trailing",
        None,
        2,
        1.0,
    ),
}
SAMPLERS: dict[str, Sampler] = {name: "consistency" if name.startswith("consistency") else "ddim" for name in CASES}

SAMPLE = """
import json, pathlib, torch
from diffusers import DiffusionPipeline
from diffusers.schedulers import scheduling_lcm
from diffusers.utils import logging
from safetensors.torch import load_file, save_file
logging.disable_progress_bar()
for folder in sorted(pathlib.Path().glob("case-*")):
    noise, *rest = load_file(folder / "noise.safetensors")["noises"]
    # A scheduler that adds noise takes it from here.
    scheduling_lcm.randn_tensor = lambda *_, rest=iter(rest), **__: next(rest)
    case = json.loads((folder / "case.json").read_text())
    if case["conditional"]:
        pipe = DiffusionPipeline.from_pretrained(folder / "pipeline", trust_remote_code=True)
        pipe.set_progress_bar_config(disable=True)
        # Steps and guidance are the pipeline's own.
        images = pipe(class_labels=[0, 1, 2, 3], latents=noise, output_type="pt").images
    else:
        pipe = DiffusionPipeline.from_pretrained(folder / "pipeline")
        pipe.set_progress_bar_config(disable=True)
        # Stock pipelines take no noise: hand it to them where they would draw it.
        module = __import__(type(pipe).__module__, fromlist=["randn_tensor"])
        module.randn_tensor = lambda *_, **__: noise
        images = pipe(batch_size=4, num_inference_steps=case["steps"], output_type="np").images
        images = torch.from_numpy(images).permute(0, 3, 1, 2)
    save_file({"images": images.contiguous()}, folder / "images.safetensors")
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], str]:
    """Every case's folder, sampled by one process without distillkit, and what that process complained about."""
    top = tmp_path_factory.mktemp("exports")
    folders = {}
    for i, (name, (options, spacing, start, steps, guidance)) in enumerate(CASES.items()):
        folders[name] = folder = top / f"case-{i:02d}"
        folder.mkdir()
        made = model(**options)
        made.spec = made.spec.with_grid(spacing, start)
        write(made, folder / "pipeline", steps, guidance, SAMPLERS[name])
        noises = torch.stack([noise_for(5, range(4), (1, 8, 8), step) for step in range(steps)])
        images = draw(made, noises, options["conditional"], guidance, SAMPLERS[name])
        save_file({"noises": noises, "images": images}, folder / "noise.safetensors")
        (folder / "case.json").write_text(json.dumps({"conditional": options["conditional"], "steps": steps}))
    return folders, alone(SAMPLE, top)


@pytest.mark.parametrize("name", CASES)
def test_stock_diffusers_samples_the_same(exported: tuple[dict[str, Path], str], name: str) -> None:
    folder = exported[0][name]
    expected = load_file(folder / "noise.safetensors")["images"]
    assert expected.std() > 0.05
    assert ((expected > 0) & (expected < 1)).float().mean() > 0.3  # it is no comparison of clamped pixels
    torch.testing.assert_close(load_file(folder / "images.safetensors")["images"], expected, rtol=0, atol=1e-5)


def test_guidance_without_a_null_class_is_refused() -> None:
    network = model("v_prediction", conditional=True).network
    pipe = ClassConditionalPipeline(network, DDIMScheduler(), num_inference_steps=1)
    pipe.set_progress_bar_config(disable=True)
    with pytest.raises(
        ValueError, match=r"^guidance_scale must be 1 \(got 2\): the model has no null class to compare"
    ):
        pipe([0], guidance_scale=2)
    assert len(pipe([0], guidance_scale=1).images) == 1


def test_stock_diffusers_does_not_complain(exported: tuple[dict[str, Path], str]) -> None:
    assert exported[1] == ""


@pytest.mark.parametrize("name", CASES)
def test_an_export_is_a_model(exported: tuple[dict[str, Path], str], name: str) -> None:
    """Read by the type "diffusers", whatever its scheduler, it samples the same again."""
    options, spacing, _, _, guidance = CASES[name]
    folder = exported[0][name]
    made = DiffusersModel(DiffusersModel.Options(path=folder / "pipeline"))
    made.load()
    made.spec = made.spec.with_grid(spacing, None)
    assert made.spec.sampler == SAMPLERS[name]
    saved = load_file(folder / "noise.safetensors")
    images = draw(made, saved["noises"], options["conditional"], guidance, made.spec.sampler)
    torch.testing.assert_close(images, saved["images"], rtol=0, atol=1e-5)


# --- a run's --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ["run.updates=3", "schedule.start=8", "source.batch=2", "source.guidance=2.0", "evaluation.guidance=2.0"]
    options += ["evaluation.steps=[2, 4]", "evaluation.samples=20", "evaluation.export_steps=4"]
    return distil(tmp_path_factory.mktemp("run"), "dsdi", *options, tables=MODEL + PLAIN + SCORED).folder


def test_index_and_scheduler_of_a_run(run_folder: Path) -> None:
    index = json.loads((run_folder / "pipeline/model_index.json").read_text(encoding="utf-8"))
    assert (index["num_inference_steps"], index["guidance_scale"], index["null_class"]) == (4, 2.0, 10)
    scheduler = DDIMScheduler.from_pretrained(run_folder / "pipeline/scheduler")
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
    network = UNet2DModel.from_pretrained(run_folder / "pipeline/unet")
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}


def test_exported_weights_are_the_average(run_folder: Path) -> None:
    state = read_checkpoint(run_folder / "checkpoints/update-000003")
    weights = load_file(run_folder / "pipeline/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(weight, state[f"engine/average.{name}"]) for name, weight in weights.items())
    assert any(not torch.equal(weight, state[f"engine/network.{name}"]) for name, weight in weights.items())


def test_model_card(run_folder: Path) -> None:
    card = (run_folder / "pipeline/README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: diffusers\n")
    for line in (
        "A diffusion model that samples in **4 steps**, made with distillkit.",
        "- Method: `dsdi`, 3 updates",
        f"- Made from: {TEACHER}",
        "- Sampling steps: 4 (scored at 2, 4)",
        "- Guidance: scale 2",
    ):
        assert line in card.splitlines()
    for row in json.loads((run_folder / "scores.json").read_text(encoding="utf-8")):
        model = f"teacher, {way(row)}" if row["model"] == "teacher" else "student"
        assert f"| {model} | {row['steps']} | fd-pixels | {row['value']:.4g} | 20 |" in card
        assert f"- `{row['protocol']}`" in card


def test_snippets_of_model_cards_run(run_folder: Path, tmp_path: Path) -> None:
    made = model("v_prediction", conditional=False)
    made.spec = made.spec.with_grid("trailing", None)
    write(made, tmp_path / "pipeline", 32)
    script = ""
    for folder in (run_folder / "pipeline", tmp_path / "pipeline"):
        [snippet] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        script += snippet.replace("path/to/this/folder", str(folder))
        script += "assert [image.size for image in images] == [(8, 8)] * 4\n"
    alone(script, tmp_path)


def test_card_and_scheduler_of_a_consistency_student(tmp_path: Path) -> None:
    made = model("v_prediction", conditional=True)
    made.spec = made.spec.with_grid("trailing", None)
    write(made, tmp_path, 2, sampler="consistency")
    scheduler = LCMScheduler.from_pretrained(tmp_path / "scheduler")
    for steps, times in ((1, [999]), (2, [999, 499]), (3, [999, 666, 333])):
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps.tolist() == times
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "\n- Sampler: multistep consistency (LCMScheduler): " in card
    assert "\n  exact at every number of steps\n" in card


def test_a_generator_makes_a_consistency_students_pictures_again() -> None:
    network = model("v_prediction", conditional=True).network
    pipe = ClassConditionalPipeline(network, LCMScheduler(prediction_type="v_prediction"), num_inference_steps=3)
    pipe.set_progress_bar_config(disable=True)
    shots = [pipe([0, 1], generator=torch.Generator().manual_seed(4), output_type="pt").images for _ in range(2)]
    assert torch.equal(*shots)


def test_export_replaces_an_export_whole(tmp_path: Path) -> None:
    made = model("v_prediction", conditional=True)
    made.spec = made.spec.with_grid("trailing", None)
    write(made, tmp_path / "pipeline", 2)
    (tmp_path / "pipeline/old.txt").touch()
    with replacing(tmp_path / "pipeline") as temporary:
        write(made, temporary, 4)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pipeline"]
    assert not (tmp_path / "pipeline/old.txt").exists()
    assert json.loads((tmp_path / "pipeline/model_index.json").read_text())["num_inference_steps"] == 4
