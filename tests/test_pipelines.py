"""The pipelines that an export brings along, used as diffusers' own are: schedulers, saving, precision, callbacks."""

from __future__ import annotations

import json
import re
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, LCMScheduler, UNet2DConditionModel
from diffusers.callbacks import PipelineCallback
from diffusers.utils import logging
from distillkit_diffusers.pipelines.class_conditional import ClassConditionalPipeline, ClassLatentPipeline
from distillkit_diffusers.pipelines.class_embedder import ClassEmbedder
from distillkit_diffusers.pipelines.guided_unet import GuidedUNet2DModel
from helpers.digits import TEACHER
from helpers.networks import pixel_unet, vq_autoencoder

# Some of diffusers' schedulers have not kept up with numpy 2.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Expected types for:UserWarning"),
]

NULL, LABELS = 4, [0, 3]


def scheduler() -> Any:
    return DDIMScheduler(prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing")


def pixels() -> Any:
    return ClassConditionalPipeline(pixel_unet(num_class_embeds=5), scheduler(), 3, 2.0, NULL)


def guided() -> Any:
    arguments = dict(pixel_unet(num_class_embeds=5).config)
    torch.manual_seed(2)
    network = GuidedUNet2DModel(guidance_range=(1.0, 3.0), **{key: arguments[key] for key in KEPT})
    return ClassConditionalPipeline(network, scheduler(), 3, 2.0, NULL)


KEPT = (
    "sample_size",
    "in_channels",
    "out_channels",
    "block_out_channels",
    "norm_num_groups",
    "layers_per_block",
    "down_block_types",
    "up_block_types",
    "num_class_embeds",
)


def latents() -> Any:
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    return ClassLatentPipeline(vq_autoencoder(), network, ClassEmbedder(5, 16), scheduler(), 3, 2.0, NULL)


MADE = {"pixels": pixels, "guided": guided, "latents": latents}
SHIPPED = {
    "pixels": {"class_conditional.py"},
    "guided": {"class_conditional.py", "unet/guided_unet.py"},
    "latents": {"class_conditional.py", "class_embedder/class_embedder.py"},
}


@pytest.fixture(params=MADE)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pipe(name: str) -> Any:
    made = MADE[name]()
    made.set_progress_bar_config(disable=True)
    for part in made.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return made


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that folders bring along is copied here, and not into the user's cache; and no progress bars."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(logging, "_tqdm_active", False)


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in (7, 8)]


def draw(pipe: Any, **arguments: Any) -> torch.Tensor:
    images: torch.Tensor = pipe(LABELS, **{"generator": generators(), "output_type": "pt"} | arguments).images
    return images


# --- schedulers -------------------------------------------------------------------------------------------------------

COMPATIBLE = sorted(
    {made.__name__ for made in scheduler().compatibles if made.__name__ != "DPMSolverSDEScheduler"}
    | {"LCMScheduler", "TCDScheduler", "EDMDPMSolverMultistepScheduler"}
)
"""What diffusers calls compatible (DPMSolverSDEScheduler needs torchsde), and more."""


@pytest.mark.parametrize("kind", COMPATIBLE)
def test_every_scheduler_takes_its_own_steps(pipe: Any, name: str, kind: str) -> None:
    """The same loop in the plain: scale, ask the network with guidance, step."""
    made = getattr(diffusers, kind)
    pipe.scheduler = made.from_config(pipe.scheduler.config)
    found = draw(pipe, num_inference_steps=6, output_type="latent")

    plain, drawing = made.from_config(scheduler().config), generators()
    shape = (1, *found.shape[1:])
    z = torch.cat([torch.randn(shape, generator=one) for one in drawing])
    plain.set_timesteps(6)
    z = z * plain.init_noise_sigma
    given = {"generator": drawing} if "generator" in signature(plain.step).parameters else {}
    labels, null = torch.tensor(LABELS), torch.full((2,), NULL)

    @torch.no_grad()
    def ask(z: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if name == "latents":
            output: torch.Tensor = pipe.unet(z, t, pipe.class_embedder(labels)).sample
        elif name == "guided":
            output = pipe.unet(z, t, labels, torch.full((2,), 2.0)).sample
        else:
            output = pipe.unet(z, t, labels).sample
        return output

    for t in plain.timesteps:
        scaled = plain.scale_model_input(z, t)
        output = ask(scaled, t, labels)
        if name != "guided":
            unguided = ask(scaled, t, null)
            output = unguided + 2.0 * (output - unguided)
        z = plain.step(output, t, z, **given).prev_sample
    torch.testing.assert_close(found, z, rtol=1e-4, atol=1e-4)


def test_every_scheduler_is_run_in_half_precision(pipe: Any) -> None:
    pipe.to(torch.float16)
    for kind in COMPATIBLE:
        pipe.scheduler = getattr(diffusers, kind).from_config(scheduler().config)
        # PNDMScheduler has no grids of fewer than 4 steps.
        images = draw(pipe, num_inference_steps=4)
        assert images.dtype == torch.float16, kind
        # EDM's noise is scaled as no network here was trained for.
        assert "EDM" in kind or images.isfinite().all(), kind


# --- saving -----------------------------------------------------------------------------------------------------------


def test_the_teacher_of_the_tests_brings_the_pipeline_of_today(tmp_path: Path) -> None:
    source = Path(str(sys.modules[ClassConditionalPipeline.__module__].__file__))
    assert (TEACHER / source.name).read_text(encoding="utf-8") == source.read_text(encoding="utf-8")
    loaded = DiffusionPipeline.from_pretrained(TEACHER, trust_remote_code=True)
    loaded.save_pretrained(tmp_path / "again")
    again = DiffusionPipeline.from_pretrained(tmp_path / "again", trust_remote_code=True)
    index = [json.loads((folder / "model_index.json").read_text()) for folder in (TEACHER, tmp_path / "again")]
    assert index[0] == {key: value for key, value in index[1].items() if key != "_name_or_path"}
    assert draw(again, num_inference_steps=2).equal(draw(loaded, num_inference_steps=2))


def test_saved_and_loaded_again_and_again(pipe: Any, name: str, tmp_path: Path) -> None:
    """By stock diffusers, from what it loaded itself, in one precision and another."""
    expected = draw(pipe)
    pipe.save_pretrained(tmp_path / "0")
    for i in range(2):
        files = {str(file.relative_to(tmp_path / str(i))) for file in (tmp_path / str(i)).rglob("*.py")}
        assert files == SHIPPED[name]
        again = DiffusionPipeline.from_pretrained(tmp_path / str(i), trust_remote_code=True)
        again.set_progress_bar_config(disable=True)
        assert type(again).__module__.startswith("diffusers_modules.")
        assert (again.config.num_inference_steps, again.config.guidance_scale, again.config.null_class) == (
            3,
            2.0,
            NULL,
        )
        torch.testing.assert_close(draw(again), expected, rtol=0, atol=0)
        again.save_pretrained(tmp_path / str(i + 1))
    index = [json.loads((tmp_path / str(i) / "model_index.json").read_text()) for i in (0, 2)]
    assert index[0] == {key: value for key, value in index[1].items() if key != "_name_or_path"}

    # Over itself, as fp16.
    again.to(torch.float16).save_pretrained(tmp_path / "2", variant="fp16")
    half = DiffusionPipeline.from_pretrained(
        tmp_path / "2", trust_remote_code=True, variant="fp16", dtype=torch.float16
    )
    half.set_progress_bar_config(disable=True)
    assert {part.dtype for part in half.components.values() if isinstance(part, torch.nn.Module)} == {torch.float16}
    torch.testing.assert_close(draw(half).float(), expected, rtol=0, atol=0.05)


def test_made_from_another_pipeline(pipe: Any, tmp_path: Path) -> None:
    """As stock pipelines are; also from a class that a folder brought along, and with a part replaced."""
    expected = draw(pipe)
    other = scheduler()
    pipe.save_pretrained(tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    for source in (pipe, loaded):
        again = type(source).from_pipe(source)
        again.set_progress_bar_config(disable=True)
        assert again.unet is source.unet
        assert again.config.null_class == NULL
        torch.testing.assert_close(draw(again), expected, rtol=0, atol=0)
        assert type(source).from_pipe(source, scheduler=other, guidance_scale=1.0).scheduler is other


# --- the call ---------------------------------------------------------------------------------------------------------


def test_generators(pipe: Any) -> None:
    """One for all pictures, or one for each: a picture's own does not depend on the others."""
    pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
    both, one = draw(pipe), generators()[1]
    torch.testing.assert_close(pipe(LABELS[1:], generator=one, output_type="pt").images, both[1:], rtol=0, atol=1e-5)
    same = [draw(pipe, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], both)


def test_what_comes_out(pipe: Any) -> None:
    pictures = draw(pipe)
    assert (pictures.min() >= 0, pictures.max() <= 1) == (True, True)
    array = draw(pipe, output_type="np")
    torch.testing.assert_close(torch.from_numpy(array).permute(0, 3, 1, 2), pictures)
    assert [image.size for image in draw(pipe, output_type="pil")] == [pictures.shape[2:]] * 2
    assert draw(pipe, output_type="latent").shape == (2, *pipe.prepare_latents(2, None, None, "cpu").shape[1:])
    [images] = pipe(LABELS, generator=generators(), output_type="pt", return_dict=False)
    assert torch.equal(images, pictures)
    assert (pipe.num_timesteps, pipe.guidance_scale) == (3, 2.0)
    single = pipe(LABELS[0], generator=generators()[0], output_type="pt").images
    torch.testing.assert_close(single, pictures[:1], rtol=0, atol=1e-5)


def test_callbacks(pipe: Any) -> None:
    seen: list[Any] = []

    def watch(pipeline: Any, step: int, t: torch.Tensor, given: dict[str, Any]) -> dict[str, Any]:
        seen.append((pipeline is pipe, step, int(t), sorted(given)))
        return given

    plain = draw(pipe)
    assert torch.equal(draw(pipe, callback_on_step_end=watch), plain)
    assert seen == [(True, i, t, ["latents"]) for i, t in enumerate((999, 666, 332))]
    draw(pipe, callback_on_step_end=watch, callback_on_step_end_tensor_inputs=[])
    assert seen[-1] == (True, 2, 332, [])

    def clear(pipeline: Any, step: int, t: torch.Tensor, given: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.zeros_like(given["latents"])}

    assert draw(pipe, callback_on_step_end=clear, output_type="latent").abs().max() == 0

    class Stop(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012

        def callback_fn(self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: Any) -> Any:
            seen.append(callback_kwargs["latents"])
            pipeline._interrupt = True
            return callback_kwargs

    found = draw(pipe, callback_on_step_end=Stop(), callback_on_step_end_tensor_inputs=[], output_type="latent")
    assert torch.equal(found, seen[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": [5]}, "class_labels must be from 0 to 4 (got [5])"),
        ({"class_labels": [-1]}, "class_labels must be from 0 to 4 (got [-1])"),
        ({"class_labels": []}, "class_labels must name at least one class (got none)"),
        ({"class_labels": torch.zeros(0, dtype=torch.int64)}, "class_labels must name at least one class (got none)"),
        ({"num_inference_steps": 0}, "num_inference_steps must be at least 1 (got 0)"),
        ({"generator": generators()[:1]}, "1 generators for 2 class_labels; give one, or one for each"),
        ({"output_type": "jpg"}, "output_type must be pil, np, pt or latent (got 'jpg')"),
        (
            {"callback_on_step_end_tensor_inputs": ["images"]},
            "callback_on_step_end_tensor_inputs must be in ['latents'] (got ['images'])",
        ),
        ({"latents": torch.zeros(2, 9, 8, 8)}, "latents must be [2, "),
    ],
)
def test_arguments_outside_their_range(pipe: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        pipe(**{"class_labels": LABELS} | arguments)


def test_offload(pipe: Any) -> None:
    """accelerate's hooks around every part, here from the CPU to the CPU."""
    expected = draw(pipe)
    names = {name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    assert set(pipe.model_cpu_offload_seq.split("->")) == names
    pipe.enable_model_cpu_offload(device="cpu")
    assert len(pipe._all_hooks) == len(names)
    for _ in range(2):
        assert torch.equal(draw(pipe), expected)


def test_progress_bar(pipe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    draw(pipe)
    assert capsys.readouterr().err == ""
    pipe.set_progress_bar_config(disable=False, desc="pictures")
    draw(pipe)
    assert "pictures: 100%" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
