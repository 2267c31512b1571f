"""Checkpoints and configs that `distillkit convert` does not take: one message, and nothing written."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.compvis.configs import CONDITION, FIRST_STAGE, UNET, changed, config
from helpers.compvis.model import LatentDiffusion, refused, write

pytestmark = pytest.mark.usefixtures("convert_folder")


# --- files -----------------------------------------------------------------------------------------------------------


def test_files_that_are_not_there() -> None:
    Path("config.yaml").unlink()
    assert refused() == "config.yaml: there is no such file; give the path of the config"
    Path("model.ckpt").unlink()
    assert refused() == "model.ckpt: there is no such file; give the path of the checkpoint"
    os.mkfifo("model.ckpt")
    assert refused() == "model.ckpt: is a pipe (FIFO), and not a file; give the path of the checkpoint"


def test_an_output_that_is_there() -> None:
    Path("out").mkdir()
    assert refused() == "out: already exists; nothing was overwritten. Give a new folder with --output"


def test_an_output_that_cannot_be_written() -> None:
    assert refused("--output", "model.ckpt/out") == (
        "model.ckpt/out: cannot be written (Not a directory); nothing is left of it: make room, or give another folder "
        "with --output"
    )
    assert refused("--output", "deep/out").startswith("model.ckpt: is not a CompVis checkpoint")


def test_an_unknown_format() -> None:
    assert refused("--format", "compvi") == (
        "--format: 1 error\n  converter.type: no converter is called 'compvi'; known: compvis — did you mean 'compvis'?"
    )


# --- configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: [",
            "cannot be read as YAML (while parsing a flow node expected the node content, but found '<stream end>' in "
            '"<unicode string>", line 1, column 5: a: [ ^)',
        ),
        ("- 1", "must be the config of a CompVis latent diffusion, with `model` at its top"),
        (
            "!!python/object/apply:os.system ['touch pwned']",
            "cannot be read as YAML (could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system' in \"<unicode string>\", line 1, column 1: "
            "!!python/object/apply:os.system ... ^)",
        ),
    ],
)
def test_configs_that_are_none(text: str, message: str) -> None:
    Path("config.yaml").write_text(text, encoding="utf-8")
    assert refused() == f"config.yaml: {message}"


@pytest.mark.parametrize(
    ("classes", "key", "value", "message"),
    [
        (False, "model", ..., "model: is required"),
        (
            False,
            "model.target",
            "ldm.models.diffusion.ddpm.LatentUpscaleDiffusion",
            "model.target: must be 'ldm.models.diffusion.ddpm.LatentDiffusion' (got "
            "'ldm.models.diffusion.ddpm.LatentUpscaleDiffusion')",
        ),
        (
            False,
            f"{FIRST_STAGE}.target",
            "ldm.models.autoencoder.AutoencoderKL",
            f"{FIRST_STAGE}.target: must be 'ldm.models.autoencoder.VQModelInterface' (got "
            "'ldm.models.autoencoder.AutoencoderKL')",
        ),
        (
            True,
            f"{CONDITION}.target",
            "ldm.modules.encoders.modules.BERTEmbedder",
            f"{CONDITION}.target: must be 'ldm.modules.encoders.modules.ClassEmbedder' (got "
            "'ldm.modules.encoders.modules.BERTEmbedder')",
        ),
        (
            False,
            CONDITION,
            "__is_first_stage__",
            f"{CONDITION}: must be a mapping with target and params (got '__is_first_stage__')",
        ),
        (False, f"{UNET}.model_channels", ..., f"{UNET}.model_channels: is required"),
        (
            False,
            f"{UNET}.use_scale_shift_norm",
            True,
            f"{UNET}.use_scale_shift_norm: must be False (got True)",
        ),
        (
            False,
            f"{UNET}.use_linear_in_transformer",
            True,
            f"{UNET}.use_linear_in_transformer: is not known: the network would not be diffusers'",
        ),
        (False, f"{UNET}.model_channels", 40, f"{UNET}.model_channels: must be a multiple of 32 (got 40)"),
        (False, f"{UNET}.num_heads", 0, f"{UNET}.num_heads: must be greater than 0 (got 0)"),
        (False, f"{UNET}.num_heads", 8, f"{UNET}: give either num_heads or num_head_channels"),
        (
            True,
            f"{UNET}.use_spatial_transformer",
            False,
            "model.params: unet_config.params.use_spatial_transformer must be true with a cond_stage_config, and false "
            "without (__is_unconditional__)",
        ),
        (
            True,
            f"{UNET}.context_dim",
            640,
            "model.params: unet_config.params.context_dim must be cond_stage_config's embed_dim, 24 (got 640)",
        ),
        (
            True,
            "model.params.conditioning_key",
            "concat",
            "model.params.conditioning_key: must be 'crossattn' (got 'concat')",
        ),
        (
            True,
            "model.params.conditioning_key",
            ...,
            "model.params: conditioning_key must be 'crossattn' with a cond_stage_config",
        ),
        (
            False,
            "model.params.parameterization",
            "x0",
            "model.params.parameterization: must be 'eps' (got 'x0')",
        ),
        (
            False,
            f"{FIRST_STAGE}.params.ddconfig.attn_resolutions",
            [16],
            f"{FIRST_STAGE}.params.ddconfig.attn_resolutions: must be empty (got [16])",
        ),
    ],
)
def test_configs_of_other_networks(classes: bool, key: str, value: Any, message: str) -> None:
    content = changed(config(classes, small=True), **{key: value})
    Path("config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert refused() == f"config.yaml: 1 error\n  {message}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_head_channels": -1}, "give either num_heads or num_head_channels"),
        ({"num_head_channels": 24}, "num_heads or num_head_channels, 24, must divide the width of every level"),
        (
            {"num_head_channels": ..., "num_heads": 8},
            "num_heads must be 1 without use_spatial_transformer, or num_head_channels be given: diffusers' "
            "UNet2DModel has heads of one width",
        ),
    ],
)
def test_heads_that_cannot_be(values: dict[str, Any], message: str) -> None:
    content = changed(config(classes=False, small=True), **{f"{UNET}.{key}": value for key, value in values.items()})
    Path("config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert refused() == f"config.yaml: 1 error\n  {UNET}: {message}"


# --- configs of other checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {f"{UNET}.model_channels": 64},
            "sizes differ from the config's: model.diffusion_model.input_blocks.0.0.weight is [32, 3, 3, 3], not "
            "[64, 3, 3, 3], model.diffusion_model.input_blocks.0.0.bias is [32], not [64], "
            "model.diffusion_model.time_embed.0.weight is [128, 32], not [256, 64] and 364 more",
        ),
        (
            {f"{FIRST_STAGE}.params.ddconfig.num_res_blocks": 1},
            "it has first_stage_model.encoder.down.0.block.1.norm1.weight, "
            "first_stage_model.encoder.down.0.block.1.norm1.bias, "
            "first_stage_model.encoder.down.0.block.1.conv1.weight and 45 more, which the config's networks "
            "do not have",
        ),
        (
            {f"{FIRST_STAGE}.params.n_embed": 128},
            "sizes differ from the config's: first_stage_model.quantize.embedding.weight is [64, 3], not [128, 3]",
        ),
        (
            {"model.params.linear_end": 0.012},
            "its noise schedule is 1000 times from β = 0.0015 to 0.0195, the config's 1000 times from β = 0.0015 to "
            "0.012",
        ),
    ],
)
def test_config_of_another_checkpoint(latent_diffusion: LatentDiffusion, values: dict[str, Any], message: str) -> None:
    write(Path(), changed(config(classes=False, small=True), **values), latent_diffusion.state())
    assert refused() == f"model.ckpt was not made with config.yaml: {message}. Give the config that came with it"


def test_config_of_the_other_model(latent_diffusion: LatentDiffusion) -> None:
    write(Path(), config(classes=True, small=True), latent_diffusion.state())
    message = refused()
    assert message.startswith(
        "model.ckpt was not made with config.yaml: it has no model.diffusion_model.input_blocks.4.1.proj_in.weight, "
    )
    assert "it has model.diffusion_model.input_blocks.4.1.qkv.weight, " in message


def test_an_average_that_is_not_whole(latent_diffusion: LatentDiffusion) -> None:
    names = [name for name in latent_diffusion.state_dict() if name.startswith("model.")]
    state = latent_diffusion.state({name: latent_diffusion.state_dict()[name] for name in names[1:]})
    write(Path(), config(classes=False, small=True), state)
    assert refused() == (
        "model.ckpt was not made with config.yaml: it has no model_ema.diffusion_modeltime_embed0weight. Give the "
        "config that came with it"
    )


# --- checkpoints -----------------------------------------------------------------------------------------------------


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Other:
    """A class of somebody's."""


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Calls(os.system, "touch pwned"), "posix.system"),
        (Calls(eval, "open('pwned', 'w')"), "eval"),
        (Calls(getattr, "1", "isdigit"), "getattr"),
        (Other(), "test_convert_mistakes.Other"),
    ],
)
def test_pickles_that_ask_for_more_than_tensors(content: Any, name: str, zipped: bool) -> None:
    whole = {"state_dict": {"a": torch.ones(1)}, "callbacks": content}
    if zipped:
        torch.save(whole, "model.ckpt")
    else:
        Path("model.ckpt").write_bytes(pickle.dumps(content, protocol=2))
    assert refused() == (
        f"model.ckpt: refused, because its pickle needs {name}, which is not a tensor; none of its code was run. If "
        "you trust the file, save its {'state_dict': …} alone, and convert that"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is no pickle of tensors"),
        (b"hello world", "it is no pickle of tensors"),
        (pickle.dumps(Calls(eval, "1"), protocol=5), "its pickle contains objects other than tensors"),
        ([torch.ones(1)], "it holds no 'state_dict'"),
        ({"model": {}}, "it holds no 'state_dict'"),
        ({"state_dict": {"a": torch.ones(1), "b": [1]}}, "'b' in its state_dict is not a tensor"),
    ],
)
def test_files_that_are_no_checkpoint(content: Any, why: str) -> None:
    if isinstance(content, bytes):
        Path("model.ckpt").write_bytes(content)
    else:
        torch.save(content, "model.ckpt")
    assert refused() == f"model.ckpt: is not a CompVis checkpoint ({why}); give a .ckpt file as they are published"


def test_a_file_cut_short(latent_diffusion: LatentDiffusion) -> None:
    write(Path(), config(classes=False, small=True), latent_diffusion.state())
    data = Path("model.ckpt").read_bytes()
    Path("model.ckpt").write_bytes(data[: len(data) // 2])
    why = "PytorchStreamReader failed reading zip archive: failed finding central directory"
    assert refused() == f"model.ckpt: is not a CompVis checkpoint ({why}); give a .ckpt file as they are published"
