"""Weights as they lie on disks: variants, wrapped names, pointers, cut files, values that are not finite."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import peft
import pytest
import torch
from click.testing import CliRunner, Result
from diffusers import DDPMScheduler, DiffusionPipeline, LDMPipeline
from distillkit_diffusers import lora
from distillkit_diffusers.model import DiffusersModel
from distillkit_diffusers.weights import variants
from helpers.networks import ddpm_pipeline, latent_pipeline, pixel_unet, tables, unet, vq_autoencoder
from helpers.pipelines import load
from helpers.text_pipelines import PROMPTS, clip_encoder, sd3, stable_diffusion
from safetensors.torch import load_file, save_file
from torch import nn

from distillkit.cli.group import cli
from distillkit.errors import DistillkitError
from distillkit.interfaces import Export

NAME = "diffusion_pytorch_model"
FILE = f"unet/{NAME}.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 3438167540\n"


def call(*words: Any) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def distil(folder: Path, *words: str) -> Result:
    few = ("--steps", 1, "--updates", 2, "--set", "tracker.type=none", "--set", "evaluation.grid=1")
    few += ("--set", "source.trajectories=1")
    return call("distill", folder, "--output", folder.parent / "run", *few, *words)


def refusal(folder: Path, *words: str) -> str:
    """What `distill` refuses a folder with: before its plan, and before anything is written."""
    result = distil(folder, *words)
    assert (result.exit_code, result.stdout, isinstance(result.exception, SystemExit)) == (2, "", True), result.output
    assert not (folder.parent / "run").exists()
    return result.stderr


def all_refuse(folder: Path) -> str:
    """What check, plan and run refuse a folder with, which is the same."""
    config = folder.parent / "mine.toml"
    config.write_text(f'preset = "dsdi"\nrun.updates = 4\n{tables(folder)}', encoding="utf-8")
    results = [call("check", config), call("plan", config), call("run", config, "--output", folder.parent / "run")]
    assert {result.exit_code for result in results} == {2}
    assert len({result.stderr for result in results}) == 1
    assert not (folder.parent / "run").exists()
    return results[0].stderr


def rewrite(file: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(file)), file, {"format": "pt"})


def same(network: nn.Module, expected: nn.Module, tolerance: float = 0) -> None:
    found = network.state_dict()
    assert found.keys() == expected.state_dict().keys()
    for name, weight in expected.state_dict().items():
        torch.testing.assert_close(found[name], weight, rtol=tolerance, atol=tolerance)


def export_of(model: DiffusersModel) -> Export:
    settings = {"run": {"name": "tiny", "updates": 1}}
    return Export(model.spec.path, 2, [2], 1.0, "dsdi", "a teacher", [], settings)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    ddpm_pipeline(tmp_path / "teacher")
    return tmp_path / "teacher"


# --- variants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [None, "20KB"])
@pytest.mark.parametrize("variant", ["bf16", "non_ema"])
def test_the_only_variant_is_taken(tmp_path: Path, variant: str, shards: str | None) -> None:
    """By all commands, of the network and of the autoencoder; the export names none."""
    folder, made = tmp_path / "teacher", LDMPipeline(vq_autoencoder(), unet(), DDPMScheduler(clip_sample=False))
    sizes = {} if shards is None else {"max_shard_size": shards}
    made.to(torch.bfloat16).save_pretrained(folder, variant=variant, **sizes)
    if shards is not None:
        assert (folder / f"unet/{NAME}.safetensors.index.{variant}.json").is_file()
    model = load(folder)
    same(model.network, unet(), 1e-2)
    inventory = model.inventory()
    assert inventory is not None
    assert inventory.parameters == sum(weight.numel() for weight in unet().parameters())
    assert inventory.frozen == sum(weight.numel() for weight in vq_autoencoder().parameters())
    (tmp_path / "mine.toml").write_text(f'preset = "dsdi"\nrun.updates = 8\n{tables(folder)}', encoding="utf-8")
    for command in ("check", "plan"):
        assert call(command, tmp_path / "mine.toml").exit_code == 0
    result = distil(folder)
    assert result.exit_code == 0, result.output
    DiffusionPipeline.from_pretrained(tmp_path / "run/pipeline")


def test_one_of_several_variants(tmp_path: Path) -> None:
    """The one without a name is in full precision; where it is missing, one has to be chosen."""
    folder = tmp_path / "teacher"
    latent_pipeline(folder)
    for name, value in (("fp16", 1.0), ("non_ema", 2.0)):
        network = unet()
        nn.init.constant_(network.conv_in.bias, value)
        network.save_pretrained(folder / "unet", variant=name)
    same(load(folder).network, unet())
    # The autoencoder has no variants.
    assert load(folder, variant="fp16").network.conv_in.bias[0] == 1  # type: ignore[union-attr, index]
    said = all_refuse_variant(folder, "bf16")
    assert said.endswith(
        f'model.variant: {folder}/unet has no weights of the variant \'bf16\'; it has "fp16", "non_ema" and weights '
        "without a variant's name\n"
    )
    (folder / FILE).unlink()
    several = (
        f'  model.variant: {folder}/unet has the weights as the variants "fp16", "non_ema", and none without a '
        "variant's name; choose one with model.variant (on the command line: --set model.variant=…)\n"
    )
    assert all_refuse(folder).endswith(several)
    assert refusal(folder).endswith(several)
    result = distil(folder, "--set", "model.variant=non_ema")
    assert result.exit_code == 0, result.output
    config = tomllib.loads((tmp_path / "run/config.toml").read_text(encoding="utf-8"))
    assert config["model"]["variant"] == "non_ema"
    # An export has one, and no name for it.
    assert call("sample", tmp_path / "run", "--count", 1, "--output", tmp_path / "grid.png").exit_code == 0


def all_refuse_variant(folder: Path, variant: str) -> str:
    config = folder.parent / "variant.toml"
    config.write_text(f'preset = "dsdi"\nrun.updates = 4\n{tables(folder, f"variant = {variant!r}")}', encoding="utf-8")
    return call("check", config).stderr


def test_variants_of_text_encoders(tmp_path: Path) -> None:
    """transformers' files; those that nothing reads are not in the export."""
    folder = tmp_path / "teacher"
    stable_diffusion(folder)
    whole = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    for part in ("text_encoder", "vae"):
        getattr(whole, part).save_pretrained(folder / part, variant="non_ema")
        shutil.copyfile(
            *sorted(folder.glob(f"{part}/*.non_ema.safetensors"))[:1], folder / f"{part}/other.fp16.safetensors"
        )
    for name in ("model", NAME):
        for file in folder.glob(f"*/{name}.safetensors"):
            if file.parent.name != "unet":
                file.unlink()
    model = load(folder, prompts=PROMPTS)
    model.export(model.network, tmp_path / "out", export_of(model))
    assert sorted(file.name for file in (tmp_path / "out/text_encoder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    found = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "out")
    same(found.text_encoder, whole.text_encoder)
    same(found.vae, whole.vae)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("model.safetensors", ""),
        ("model.fp16.safetensors", "fp16"),
        ("model-00001-of-00002.safetensors", ""),
        ("model.fp16-00001-of-00002.safetensors", "fp16"),
        ("model-00001-of-00002.fp16.safetensors", "fp16"),
        ("model.safetensors.index.json", ""),
        ("model.safetensors.index.non-ema.json", "non-ema"),
        ("model.non_ema.safetensors.index.json", "non_ema"),
    ],
)
def test_names_of_files(name: str, variant: str) -> None:
    """As diffusers and transformers write them, or wrote them once."""
    assert variants([name, "pytorch_model.bin", "diffusion_pytorch_model.bf16.safetensors"], "model") == {
        variant: [name]
    }


# --- names that wrappers wrote ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_names_of_wrapped_networks(teacher: Path, prefix: str) -> None:
    rewrite(teacher / FILE, lambda found: {prefix + name: weight for name, weight in found.items()})
    model = load(teacher)
    same(model.network, pixel_unet())
    inventory = model.inventory()
    assert inventory is not None
    assert inventory.parameters == sum(weight.numel() for weight in pixel_unet().parameters())


def test_a_compiled_network_as_it_is_saved(teacher: Path) -> None:
    network = pixel_unet()
    network.mid_block = torch.compile(network.mid_block)
    network.save_pretrained(teacher / "unet")
    assert any("mid_block._orig_mod." in name for name in load_file(teacher / FILE))
    same(load(teacher).network, pixel_unet())


def test_wrapped_text_encoders_and_autoencoders(tmp_path: Path) -> None:
    """Read, and exported under the names that stock diffusers reads."""
    sd3(tmp_path / "teacher")
    plain = load(tmp_path / "teacher", prompts=PROMPTS)
    for file in tmp_path.glob("teacher/*/*.safetensors"):
        rewrite(file, lambda found: {f"_orig_mod.{name}": weight for name, weight in found.items()})
    model = load(tmp_path / "teacher", prompts=PROMPTS)
    same(model.network, plain.network)
    labels = torch.arange(3)
    for key, value in plain.condition(labels, 3).inputs.items():
        assert torch.equal(model.condition(labels, 3).inputs[key], value)
    model.export(model.network, tmp_path / "out", export_of(model))
    stock = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "out")
    same(stock.vae, plain.family.autoencoder.network)  # type: ignore[attr-defined]


@pytest.mark.parametrize("prefix", ["ema.", "unet.", "model.diffusion_model."])
def test_weights_of_a_module_that_holds_the_network(teacher: Path, prefix: str) -> None:
    rewrite(teacher / FILE, lambda found: {prefix + name: weight for name, weight in found.items()})
    said = refusal(teacher)
    assert "is missing, of " in said
    assert f', because every name in the files begins with "{prefix}", as where a training script ' in said


def test_weights_of_another_network(teacher: Path) -> None:
    """The names tell what happened."""
    rewrite(teacher / FILE, lambda found: {f"{name}.ema": weight for name, weight in found.items()})
    assert "(the files have names like conv_in.bias.ema); get the folder anew\n" in refusal(teacher)


def test_two_tensors_for_one_weight(teacher: Path) -> None:
    """Those of a compiled network beside its own."""
    rewrite(teacher / FILE, lambda found: {**found, "_orig_mod.conv_in.bias": found["conv_in.bias"] + 1})
    for said in (all_refuse(teacher), refusal(teacher)):
        assert f"{teacher}/unet has two tensors for the weight conv_in.bias: " in said


# --- shards ----------------------------------------------------------------------------------------------------------

INDEX = f"unet/{NAME}.safetensors.index.json"


def shard(teacher: Path) -> None:
    shutil.rmtree(teacher / "unet")
    pixel_unet().save_pretrained(teacher / "unet", max_shard_size="20KB")


def shards(teacher: Path) -> list[Path]:
    return sorted(teacher.glob("unet/*-of-*.safetensors"))


def test_a_shard_that_lacks_what_the_index_names(teacher: Path) -> None:
    """diffusers takes the index's word, and leaves the weight as it finds the memory."""
    shard(teacher)
    name, file = next(iter(load_file(shards(teacher)[1]))), shards(teacher)[1]
    rewrite(file, lambda found: {key: weight for key, weight in found.items() if key != name})
    for said in (all_refuse(teacher), refusal(teacher)):
        assert f"{teacher}/{INDEX}: names the weight {name} in {file.name}, which does not have it (1 of " in said


def test_shards_that_overlap(teacher: Path) -> None:
    shard(teacher)
    rewrite(shards(teacher)[1], lambda found: found | {"conv_in.bias": torch.ones(8)})
    assert f"{teacher}/unet has two tensors for the weight conv_in.bias: " in all_refuse(teacher)


def test_an_index_that_lacks_a_weight(teacher: Path) -> None:
    shard(teacher)
    content = json.loads((teacher / INDEX).read_text(encoding="utf-8"))
    del content["weight_map"]["conv_in.bias"]
    for file in shards(teacher):
        rewrite(file, lambda found: {key: weight for key, weight in found.items() if key != "conv_in.bias"})
    (teacher / INDEX).write_text(json.dumps(content), encoding="utf-8")
    assert f"the weights in {teacher}/unet are not whole: conv_in.bias is missing, of 1" in refusal(teacher)


@pytest.mark.parametrize("weight_map", [[f"{NAME}-00001-of-00002.safetensors"] * 200, {"conv_in.bias": 3}, None])
def test_an_index_that_is_none(teacher: Path, weight_map: Any) -> None:
    shard(teacher)
    (teacher / INDEX).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    assert all_refuse(teacher).endswith(
        f"{teacher}/{INDEX}: weight_map must be an object: the name of a file for each weight; get it anew\n"
    )


def test_a_text_encoders_shard_that_lacks_a_weight(tmp_path: Path) -> None:
    stable_diffusion(tmp_path / "teacher")
    folder = tmp_path / "teacher/text_encoder"
    (folder / "model.safetensors").unlink()
    clip_encoder().save_pretrained(folder, max_shard_size="5KB")
    file = sorted(folder.glob("*-of-*.safetensors"))[-1]
    name = next(iter(load_file(file)))
    rewrite(file, lambda found: {key: weight for key, weight in found.items() if key != name} | {"a": torch.ones(1)})
    model = DiffusersModel(DiffusersModel.Options(path=tmp_path / "teacher", prompts=PROMPTS))
    [mistake] = model.check()
    assert f"names the weight {name} in {file.name}, which does not have it" in mistake.message


# --- types and shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3"), (torch.int64, "I64")]
)
def test_quantized_weights(teacher: Path, dtype: torch.dtype, name: str) -> None:
    rewrite(teacher / FILE, lambda found: found | {"conv_out.weight": found["conv_out.weight"].to(dtype)})
    for said in (all_refuse(teacher), refusal(teacher)):
        assert f"{teacher}/{FILE}: conv_out.weight has the type {name}; expected F16, BF16, F32, F64: " in said


def test_quantized_weights_of_another_name(tmp_path: Path) -> None:
    """A parameter that is called neither weight nor bias."""
    latent_pipeline(tmp_path / "teacher")
    sd3(tmp_path / "sd3")
    file = tmp_path / f"sd3/transformer/{NAME}.safetensors"
    rewrite(file, lambda found: found | {"pos_embed.pos_embed": found["pos_embed.pos_embed"].to(torch.int8)})
    with pytest.raises(DistillkitError, match=r": pos_embed.pos_embed has the type I8; expected F16"):
        load(tmp_path / "sd3", prompts=PROMPTS)


def test_a_quantized_networks_config(teacher: Path) -> None:
    config = json.loads((teacher / "unet/config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (teacher / "unet/config.json").write_text(json.dumps(config), encoding="utf-8")
    assert all_refuse(teacher).endswith(
        f"{teacher}/unet/config.json: has a quantization_config; give the network as it was before that\n"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_buffers_of_whole_numbers(
    teacher: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    extra = {"step": torch.tensor(3)}
    rewrite(teacher / FILE, lambda found: {name: weight.to(dtype) for name, weight in found.items()} | extra)
    same(load(teacher).network, pixel_unet().to(dtype).float())
    said = [record.getMessage() for record in caplog.records if "unet" in record.getMessage()]
    assert said == [f"model.path: {teacher}/unet: weights that are not used: 1, such as step"]


def test_a_shape_that_is_another(teacher: Path) -> None:
    """Of the file, and of the config."""
    rewrite(teacher / FILE, lambda found: found | {"conv_in.weight": torch.ones(4, 1, 3, 3)})
    said = refusal(teacher)
    assert f"{teacher}/{FILE}: conv_in.weight has the shape [4, 1, 3, 3], and the network that " in said
    assert f" {teacher}/unet/config.json describes has [8, 1, 3, 3] there; get both files from one place\n" in said


def test_a_text_encoder_of_another_shape(tmp_path: Path) -> None:
    stable_diffusion(tmp_path / "teacher")
    clip_encoder(width=32).save_pretrained(tmp_path / "wide")
    shutil.copy(tmp_path / "wide/model.safetensors", tmp_path / "teacher/text_encoder")
    with pytest.raises(DistillkitError, match=r"/text_encoder/model.safetensors: .* has the shape \[.*32.*, and the "):
        load(tmp_path / "teacher", prompts=PROMPTS)


@pytest.mark.parametrize("tensors", [{}, {"conv_in.bias": torch.ones(0)}])
def test_a_file_without_weights(teacher: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, teacher / FILE)
    for said in (all_refuse(teacher), refusal(teacher)):
        assert said.endswith(f"{teacher}/{FILE}: holds no weights; get the file anew\n")


# --- files that are not what they should be --------------------------------------------------------------------------


def test_git_lfs_pointers(teacher: Path) -> None:
    (teacher / FILE).write_text(POINTER, encoding="utf-8")
    expected = f"model.path: {teacher}/{FILE}: is a Git LFS pointer in the place of the file; run `git lfs pull` in "
    assert expected in all_refuse(teacher)
    assert expected in refusal(teacher)


@pytest.mark.parametrize("name", ["text_encoder/model.safetensors", "tokenizer/tokenizer.json", "vae/config.json"])
def test_git_lfs_pointers_in_other_parts(tmp_path: Path, name: str) -> None:
    stable_diffusion(tmp_path / "teacher")
    (tmp_path / "teacher" / name).write_text(POINTER, encoding="utf-8")
    model = DiffusersModel(DiffusersModel.Options(path=tmp_path / "teacher", prompts=PROMPTS))
    start = f"path: {tmp_path}/teacher/{name}: is a Git LFS pointer in the place of the file; run `git lfs pull` in "
    assert [str(mistake).startswith(start) for mistake in model.check()] == [True]


def test_weights_that_are_no_file(teacher: Path) -> None:
    (teacher / FILE).unlink()
    (teacher / FILE).symlink_to("elsewhere")
    for said in (all_refuse(teacher), refusal(teacher)):
        told = "is a link to elsewhere, which is not there; expected the weights: get the file anew"
        assert said.endswith(f"{teacher}/{FILE}: {told}\n")
    (teacher / FILE).unlink()
    (teacher / FILE).mkdir()
    assert f"{teacher}/{FILE}: is a folder; expected the weights: " in all_refuse(teacher)


def test_a_config_that_is_nested_too_deep(teacher: Path) -> None:
    (teacher / "unet/config.json").write_text("[" * 100_000 + "]" * 100_000, encoding="utf-8")
    assert f"{teacher}/unet/config.json: cannot be read as JSON (" in all_refuse(teacher)


def test_a_file_cut_short(teacher: Path) -> None:
    """The folder's other weights are offered."""
    pixel_unet().half().save_pretrained(teacher / "unet", variant="fp16")
    pixel_unet().save_pretrained(teacher / "unet_ema")
    file = teacher / FILE
    file.write_bytes(file.read_bytes()[:-4])
    for said in (all_refuse(teacher), refusal(teacher)):
        assert f"model.path: {file}: cannot be read as safetensors (" in said
        assert said.endswith(
            "was not copied to its end: get it anew; what can be read there: the variant fp16 "
            '(model.variant = "fp16"), unet_ema/ (model.subfolder = "unet_ema")\n'
        )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(teacher: Path, value: float) -> None:
    def spoil(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found["conv_in.weight"][0, 0, 1, 1:] = value
        return found

    rewrite(teacher / FILE, spoil)
    assert refusal(teacher) == (
        f"model.path: {teacher}/{FILE}: conv_in.weight has 2 values that are NaN or infinite, of 72; get the file "
        "anew\n"
    )


def test_values_of_frozen_parts_that_are_not_finite(tmp_path: Path) -> None:
    stable_diffusion(tmp_path / "teacher")
    for part, name in (("vae", NAME), ("text_encoder", "model")):
        file = tmp_path / f"teacher/{part}/{name}.safetensors"
        before = file.read_bytes()
        rewrite(file, lambda found: {key: weight * torch.nan for key, weight in found.items()})
        with pytest.raises(DistillkitError, match=rf"^model.path: {file}: .* values that are NaN or infinite, of "):
            load(tmp_path / "teacher", prompts=PROMPTS)
        file.write_bytes(before)


# --- what a training left --------------------------------------------------------------------------------------------


def test_an_average_beside_the_network(teacher: Path) -> None:
    """It is never taken silently."""
    average = pixel_unet()
    nn.init.constant_(average.conv_in.bias, 3.0)
    average.save_pretrained(teacher / "unet_ema")
    same(load(teacher).network, pixel_unet())
    same(load(teacher, subfolder="unet_ema").network, average)
    result = distil(teacher, "--set", "model.subfolder=unet_ema")
    assert result.exit_code == 0, result.output
    assert f"no folder {teacher}/unet_em (model.subfolder)" in refusal_of(teacher, "model.subfolder=unet_em")


def refusal_of(folder: Path, assignment: str) -> str:
    shutil.rmtree(folder.parent / "run")
    return refusal(folder, "--set", assignment)


def test_only_the_average_is_there(teacher: Path) -> None:
    (teacher / "unet").rename(teacher / "unet_ema")
    assert all_refuse(teacher).endswith(
        f"model.path: {teacher} has no unet/config.json, which DDPMPipeline needs; what can be read there: unet_ema/ "
        '(model.subfolder = "unet_ema")\n'
    )


def test_a_training_scripts_folder(tmp_path: Path) -> None:
    """Its checkpoints are offered, the newest first, and what they hold."""
    output = tmp_path / "output"
    for number in (500, 1000):
        pixel_unet().save_pretrained(output / f"checkpoint-{number}/unet")
        pixel_unet().save_pretrained(output / f"checkpoint-{number}/unet_ema")
    (output / "logs").mkdir()
    newest, older = output / "checkpoint-1000", output / "checkpoint-500"
    assert all_refuse(output).endswith(
        f"; it holds {newest}/unet, {newest}/unet_ema, {older}/unet, {older}/unet_ema: give one of them\n"
    )
    schedule = {"beta_schedule": "linear"}
    for path, options in ((newest / "unet_ema", {}), (newest, {"subfolder": "unet_ema"}), (newest, {})):
        same(load(path, scheduler=schedule, **options).network, pixel_unet())


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_checkpoint_of_accelerate(tmp_path: Path, name: str) -> None:
    """It may even lie where the network's own file does."""
    folder = tmp_path / "checkpoint-500"
    folder.mkdir()
    save_file(pixel_unet().state_dict(), folder / name)
    (folder / "random_states_0.pkl").touch()
    advice = (
        f"; {name} is a training script's checkpoint, which does not say what network it is of: load it in that "
        "script, and write the network with save_pretrained\n"
    )
    assert all_refuse(folder).endswith(advice)
    if name.endswith(".safetensors"):
        assert all_refuse(folder / name).endswith(advice)
    (folder / "config.json").write_text(json.dumps(dict(pixel_unet().config) | {"_class_name": "UNet2DModel"}))
    assert f"{folder} has " in all_refuse(folder)


def test_a_lora_that_is_not_fused(teacher: Path) -> None:
    """As a training script leaves it: the network with peft's layers, saved by its own save_pretrained."""
    network = diffusers.UNet2DModel.from_pretrained(teacher / "unet")
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=["conv1"]), network)
    network.save_pretrained(teacher / "unet")
    key = next(name for name in load_file(teacher / FILE) if "conv1" in name)
    told = f"{teacher}/unet has a LoRA that is not fused into the network's weights ({key}): fuse it in the script"
    assert told in " ".join(refusal(teacher).split())
    assert told in all_refuse(teacher)
    lora.fuse(network)
    network.save_pretrained(teacher / "unet")
    same(load(teacher).network, network)


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"])
def test_a_lora_alone(teacher: Path, tmp_path: Path, name: str) -> None:
    """Alone in a folder, as the path itself, and in place of the network's weights."""
    alone = tmp_path / "lora" / name
    alone.parent.mkdir()
    save_file({"unet.conv1.lora_A.weight": torch.ones(2, 4)}, alone)
    shutil.move(alone.parent, tmp_path / "mine")
    told = (
        f"; {name} is a LoRA, which holds changes to a network's weights alone: load it into its pipeline with "
        "load_lora_weights, call fuse_lora and unload_lora_weights, and give what save_pretrained writes"
    )
    shutil.move(tmp_path / "mine" / name, teacher / "unet" / name)
    (teacher / FILE).unlink()
    for path in (teacher / "unet" / name, teacher):
        assert told in " ".join(refusal(path).split())
    (tmp_path / "mine" / name).touch()
    assert told in " ".join(refusal(tmp_path / "mine").split())


def test_files_and_parts_instead_of_the_folder(tmp_path: Path, teacher: Path) -> None:
    assert all_refuse(teacher / FILE).endswith(f"; give {teacher / 'unet'}\n")
    (tmp_path / "model.ckpt").touch()
    assert "; `distillkit convert` makes such a folder of " in all_refuse(tmp_path / "model.ckpt")
    stable_diffusion(tmp_path / "sd")
    assert all_refuse(tmp_path / "sd/unet").endswith(f"; it is a part of the pipeline in {tmp_path}/sd: give that\n")
    (tmp_path / "sd/unet").rename(tmp_path / "sd/unet_ema")
    assert all_refuse(tmp_path / "sd/unet_ema").endswith(': give that, and model.subfolder = "unet_ema"\n')
    same(load(tmp_path / "sd", prompts=PROMPTS, subfolder="unet_ema").network, load_sd(tmp_path / "sd/unet_ema"))


def load_sd(folder: Path) -> nn.Module:
    found: nn.Module = diffusers.UNet2DConditionModel.from_pretrained(folder)
    return found
