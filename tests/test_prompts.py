"""What a text-conditional model is told, and what of it is wrong."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline
from distillkit_diffusers.families.stable_diffusion import StableDiffusion
from helpers.pipelines import distil, load, own, stock
from helpers.text_pipelines import PROMPTS, flux, sd3, stable_diffusion

from distillkit.cli.group import cli
from distillkit.config import read_config
from distillkit.errors import ConfigError, DistillkitError
from distillkit.interfaces import Export
from distillkit.sampling import noise_for
from distillkit.training.run import run

NOISE = noise_for(0, range(3), (4, 8, 8))
TOLD = f"prompts = {json.dumps(PROMPTS)}"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "sd"
    stable_diffusion(folder)
    return folder


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_a_file_of_prompts(teacher: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# of animals\n\na cat\n  the sea \n   # no more\nzebra", encoding="utf-8")
    listed, filed = load(teacher, prompts=PROMPTS), load(teacher, prompts_file=file)
    assert listed.spec.classes == filed.spec.classes == 3
    for key, value in listed.condition(torch.arange(3), 3).inputs.items():
        assert torch.equal(filed.condition(torch.arange(3), 3).inputs[key], value)


def test_embeddings_are_those_of_the_stock_pipeline(teacher: Path) -> None:
    """More prompts than are encoded at once; "no class" is the negative prompt."""
    prompts = [chr(ord("a") + i) for i in range(19)]
    model = load(teacher, prompts=tuple(prompts), negative_prompt="dog")
    pipe = StableDiffusionPipeline.from_pretrained(teacher)
    with torch.no_grad():
        expected, negative = pipe.encode_prompt(prompts, torch.device("cpu"), 1, True, ["dog"] * 19)
    condition = model.condition(torch.tensor([18, -1, 0]), 3, torch.full((3,), 2.0))
    found, null = condition.inputs["encoder_hidden_states"], condition.null["encoder_hidden_states"]  # type: ignore[index]
    torch.testing.assert_close(found, torch.stack([expected[18], negative[0], expected[0]]), rtol=0, atol=1e-5)
    torch.testing.assert_close(null, negative[:3], rtol=0, atol=1e-5)
    assert torch.equal(model.condition(None, 3).inputs["encoder_hidden_states"], null)
    with pytest.raises(DistillkitError, match=r"^class 19: the model has the prompts 0 to 18$"):
        model.condition(torch.tensor([19]), 1)


def test_half_precision_alone(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders compute as they were saved; an export has no variants, so that it loads without naming one."""
    StableDiffusionPipeline.from_pretrained(teacher).to(torch.float16).save_pretrained(
        tmp_path / "half", variant="fp16"
    )
    types: list[torch.dtype] = []
    embed = StableDiffusion.embed

    def recorded(family: Any, pipeline: Any, texts: list[str]) -> Any:
        types.append(pipeline.text_encoder.dtype)
        return embed(family, pipeline, texts)

    monkeypatch.setattr(StableDiffusion, "embed", recorded)
    model = load(tmp_path / "half", prompts=PROMPTS)
    assert types == [torch.float16]
    assert model.condition(None, 3).inputs["encoder_hidden_states"].dtype == torch.float32
    export = Export(model.spec.path, 2, [2], 1.0, "dsdi", "a teacher", [], {"run": {"name": "tiny", "updates": 1}})
    model.export(model.network, tmp_path / "out", export)
    for part in ("text_encoder/model", "vae/diffusion_pytorch_model"):
        before, after = (tmp_path / f"half/{part}.fp16.safetensors", tmp_path / f"out/{part}.safetensors")
        assert before.read_bytes() == after.read_bytes()
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out").to(torch.float32)
    theirs = stock(pipe, NOISE, prompt=list(PROMPTS), num_inference_steps=2, guidance_scale=1.0)
    torch.testing.assert_close(own(model, NOISE, 2, [0, 1, 2]), theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("save", "sentences"),
    [
        (stable_diffusion, ["2 of 19 prompts have more than 12 tokens, and tokenizer cuts off the rest"]),
        (
            sd3,
            [
                "2 of 19 prompts have more than 12 tokens, and tokenizer cuts off the rest",
                "1 of 19 prompts have more than 256 tokens, and tokenizer_3 cuts off the rest",
            ],
        ),
    ],
)
def test_long_prompts_are_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], save: Any, sentences: list[str]
) -> None:
    """CLIP's tokenizer lets 12 through here. The libraries would say so at each of three batches."""
    save(tmp_path / "teacher")
    capfd.readouterr()
    load(tmp_path / "teacher", prompts=("a b c d e f g h i j k l", *"abcdefghijklmnopq", "a " * 300))
    assert [record.getMessage() for record in caplog.records] == [f"model.prompts: {line}" for line in sentences]
    assert "truncated" not in capfd.readouterr().err


# --- results are told what their run was -----------------------------------------------------------------------------


def test_commands_and_phases_pass_prompts_on(teacher: Path, tmp_path: Path) -> None:
    phase = '[[phase]]\npreset = "tsd"\nrun = { updates = 1 }\nschedule = { start = 2 }\n'
    tables = '[evaluation]\nsteps = [1]\ngrid = 3\n[tracker]\ntype = "none"\n[source]\nbatch = 1\n'
    file = tmp_path / "two.toml"
    text = f'[model]\ntype = "diffusers"\npath = "{teacher}"\nsize = [16, 24]\n{TOLD}\n{tables}{phase}{phase}'
    file.write_text(text, encoding="utf-8")
    config = read_config(file)
    run(config, tmp_path / "run")
    second = (tmp_path / "run/phases/2/config.toml").read_text(encoding="utf-8")
    assert 'phases/1/pipeline"' in second

    def sample(name: str, pipeline: Path, *options: str) -> bytes:
        arguments = [
            "sample",
            str(pipeline),
            "--steps",
            "1",
            "--count",
            "3",
            "--output",
            str(tmp_path / name),
            *options,
        ]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        return (tmp_path / name).read_bytes()

    (tmp_path / "prompts.txt").write_text("zebra\nzebra\nzebra\n", encoding="utf-8")
    of_run = sample("a.png", tmp_path / "run")
    assert of_run == sample("b.png", tmp_path / "run/phases/2")
    assert of_run != sample("c.png", tmp_path / "run", "--prompts", str(tmp_path / "prompts.txt"))
    # Elsewhere nobody knows what it was told.
    (tmp_path / "run/pipeline").rename(tmp_path / "elsewhere")
    result = CliRunner().invoke(cli, ["sample", str(tmp_path / "elsewhere")])
    assert (result.exit_code, "(on the command line: --prompts FILE)" in result.stderr) == (2, True)


# --- mistakes --------------------------------------------------------------------------------------------------------


def mistakes(folder: Path, model: str = TOLD, *assignments: str) -> str:
    """The mistakes of a run that it stops."""
    with pytest.raises(DistillkitError) as caught:
        distil(folder.parent / "top", folder, "dsdi", *assignments, model=model)
    assert not (folder.parent / "top/run").exists()
    found = caught.value
    return "\n".join(map(str, found.mistakes)) if isinstance(found, ConfigError) else str(found)


def test_no_prompts(teacher: Path) -> None:
    assert mistakes(teacher, "") == (
        "model.prompts: are required: StableDiffusionPipeline makes pictures of texts; give a list of them, or a text "
        "file with one a line as prompts_file (on the command line: --prompts FILE)"
    )


def test_prompts_that_are_wrong(teacher: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    line = f'prompts_file = "{file}"'
    assert mistakes(teacher, line) == f"model.prompts_file: {file}: there is no such file; give the path of a file"
    os.mkfifo(file)
    found = mistakes(teacher, line)
    assert found == f"model.prompts_file: {file}: is a pipe (FIFO), and not a file; give the path of a file"
    file.unlink()
    file.write_text("# nothing yet\n\n", encoding="utf-8")
    assert mistakes(teacher, line) == (
        f"model.prompts_file: {file}: has no prompts; expected one a line (blank lines, and those that begin with #, "
        "are skipped)"
    )
    assert mistakes(teacher, f"{line}\n{TOLD}") == (
        "model.prompts: are given, and prompts_file as well; leave one of them out"
    )
    assert mistakes(teacher, "prompts = []").startswith("model.prompts: ")


def test_options_of_other_families(teacher: Path) -> None:
    assert mistakes(teacher, f"{TOLD}\nnull_class = 3") == (
        "model.null_class: means nothing to StableDiffusionPipeline; leave it out"
    )


@pytest.mark.parametrize(
    ("save", "part"),
    [
        (partial(flux, guidance_embeds=True), "transformer"),
        (partial(stable_diffusion, network={"time_cond_proj_dim": 16}), "unet"),
    ],
)
def test_a_negative_prompt_that_nothing_is_compared_with(tmp_path: Path, save: Any, part: str) -> None:
    save(tmp_path / "teacher")
    assert mistakes(tmp_path / "teacher", f'{TOLD}\nnegative_prompt = "dog"\nsize = 16') == (
        f"model.negative_prompt: has no effect: the network in {tmp_path / 'teacher' / part} takes the guidance scale "
        "as an input, and is not compared with a negative prompt; leave it out"
    )


@pytest.mark.parametrize(
    ("save", "size", "message"),
    [
        (stable_diffusion, "20", "20 × 20; StableDiffusionPipeline takes multiples of 8 pixels"),
        (sd3, "[8, 6]", "8 × 6; StableDiffusion3Pipeline takes multiples of 4 pixels"),
        (sd3, "[8, 36]", "the network knows positions for 32 pixels at most"),
        (flux, "18", "18 × 18; FluxPipeline takes multiples of 4 pixels"),
    ],
)
def test_sizes_that_do_not_exist(tmp_path: Path, save: Any, size: str, message: str) -> None:
    save(tmp_path / "teacher")
    assert mistakes(tmp_path / "teacher", f"{TOLD}\nsize = {size}") == f"model.size: {message}"


def test_a_grid_that_flux_does_not_have(tmp_path: Path) -> None:
    flux(tmp_path / "teacher")
    assert mistakes(tmp_path / "teacher", f"{TOLD}\nsize = 16", 'grid.spacing="linspace"') == (
        'grid.spacing: is "linspace", and the model\'s pipeline passes its scheduler "trailing" grids; set it to that'
    )


def test_epsilon_prediction_from_zero_signal(tmp_path: Path) -> None:
    stable_diffusion(tmp_path / "teacher", rescale_betas_zero_snr=True)
    file = tmp_path / "teacher/scheduler/scheduler_config.json"
    assert mistakes(tmp_path / "teacher").startswith(
        f"model.scheduler.rescale_betas_zero_snr: is true in {file}; expected false, as the last time would be pure"
    )


@pytest.mark.parametrize("other", ["StableDiffusionInpaintPipeline", "StableDiffusionControlNetPipeline"])
def test_pipelines_that_take_more_than_a_text(tmp_path: Path, other: str) -> None:
    stable_diffusion(tmp_path / "teacher")
    index = tmp_path / "teacher/model_index.json"
    content = json.loads(index.read_text(encoding="utf-8")) | {"_class_name": other}
    index.write_text(json.dumps(content), encoding="utf-8")
    found = mistakes(tmp_path / "teacher")
    assert found.startswith(f"model.path: {index}: the pipeline is a {other}; supported: DDPMPipeline, ")
    assert "StableDiffusionPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline, FluxPipeline" in found


def test_parts_that_are_missing(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    stable_diffusion(folder)
    (folder / "tokenizer").rename(folder / "words")
    assert mistakes(folder) == f"model.path: {folder}/model_index.json: names 'tokenizer', which is no folder beside it"
    (folder / "words").rename(folder / "tokenizer")
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/pytorch_model.bin")
    assert mistakes(folder).startswith(
        f"model.path: {folder}/text_encoder has its weights as a pickle (pytorch_model.bin), which may run code"
    )
    stable_diffusion(folder, {"in_channels": 9})
    assert mistakes(folder) == (
        f"model.path: the autoencoder in {folder}/vae makes latents of 4 channels, and the network in {folder}/unet "
        "takes 9"
    )


@pytest.mark.parametrize("part", ["text_encoder/private.json", "tokenizer"])
def test_links_that_lead_out_of_the_folder(tmp_path: Path, part: str) -> None:
    """An export would copy what they lead to."""
    folder = tmp_path / "teacher"
    stable_diffusion(folder)
    outside = tmp_path / "outside"
    if part == "tokenizer":
        (folder / part).rename(outside)
    else:
        outside.write_text("{}", encoding="utf-8")
    (folder / part).symlink_to(outside)
    assert mistakes(folder) == (
        f"model.path: {folder}/{part}: is a link that leads out of the folder, to {outside}, and the export would copy "
        "what is there; put a copy in its place, if you trust it"
    )


def test_links_of_the_hub_s_cache(tmp_path: Path) -> None:
    """Files are links to ../../../blobs. To another place they are refused there as well."""
    folder = tmp_path / "models--someone--tiny/snapshots/0123abcd"
    stable_diffusion(folder)
    blobs = folder.parents[1] / "blobs"
    blobs.mkdir()
    files = [file for file in folder.rglob("*") if file.is_file()]
    for i, file in enumerate(files):
        file.rename(blobs / str(i))
        file.symlink_to(os.path.relpath(blobs / str(i), file.parent))
    (folder.parents[1] / "private").touch()
    (folder / "tokenizer/more.txt").symlink_to("../../../private")
    found = mistakes(folder)
    assert found.startswith(f"model.path: {folder}/tokenizer/more.txt: is a link that leads out of the folder")
    assert found.count("is a link") == 1
