"""Odd and hostile checkpoints and configs, and disks that are full: `distillkit convert` says one sentence at once, and
leaves nothing."""

from __future__ import annotations

import os
import resource
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from distillkit_compvis.checkpoint import read_checkpoint
from helpers.compvis.configs import FIRST_STAGE, UNET, changed, config
from helpers.compvis.model import LatentDiffusion, refused, write

from distillkit.cli.group import cli
from distillkit.errors import DistillkitError
from distillkit.files import OWNER

pytestmark = pytest.mark.usefixtures("convert_folder")


# --- configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[" * 100_000, "cannot be read as YAML (it is nested too deep)", id="lists in lists"),
        pytest.param("{a: " * 60_000, "cannot be read as YAML (it is nested too deep)", id="mappings in mappings"),
        pytest.param("- " * 100_000, "cannot be read as YAML (it is nested too deep)", id="block lists"),
        pytest.param(
            "a: " + "9" * 5000,
            "cannot be read as YAML (Exceeds the limit (4300 digits) for integer string conversion: value has 5000 "
            "digits)",
            id="a number of 5000 digits",
        ),
        ("a: 2001-99-99", "cannot be read as YAML (month must be in 1..12)"),
        ("a: !!int x", "cannot be read as YAML (invalid literal for int() with base 10: 'x')"),
        ("a: !!bool x", "cannot be read as YAML ('x')"),
        pytest.param("a" * 2**18 + ": 1", "is no config of a network: it has more than 262144 bytes", id="large"),
        pytest.param(
            "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60)),
            'cannot be read as YAML (it has a merge key (<<) in "<unicode string>", line 2, column 10: a1: &a1 {<<: '
            "[*a0, *a0]} ^)",
            id="merges that double",
        ),
    ],
)
@pytest.mark.timeout(20)
def test_yaml_that_asks_too_much(text: str, message: str) -> None:
    Path("config.yaml").write_text(text, encoding="utf-8")
    assert refused() == f"config.yaml: {message}"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            f"{UNET}.model_channels",
            "0x" + "f" * 4999,
            "must be a multiple of 32 (got an integer of 19996 bits)",
        ),
        (f"{UNET}.model_channels", 32 * 10**9, "must be less than or equal to 65536 (got 32000000000)"),
        (f"{UNET}.num_res_blocks", 10**9, "must be less than or equal to 1000000 (got 1000000000)"),
        (f"{UNET}.channel_mult", [1] * 1000, "must have at most 32 entries (got [1, 1, 1, 1, 1, 1, ...])"),
        (f"{UNET}.dropout", 2.0, "must be less than or equal to 1 (got 2.0)"),
        ("model.params.timesteps", 10**15, "must be less than or equal to 1000000 (got 1000000000000000)"),
        ("model.params.scale_factor", float("inf"), "must be a finite number (got inf)"),
        ("model.params.linear_start", float("nan"), "must be a finite number (got nan)"),
    ],
    ids=range(8),
)
@pytest.mark.timeout(20)
def test_numbers_that_no_network_has(key: str, value: Any, message: str) -> None:
    content = changed(config(classes=False, small=True), **{key: value})
    text = yaml.safe_dump(content).replace("'0xf", "0xf").replace("f'\n", "f\n")
    Path("config.yaml").write_text(text, encoding="utf-8")
    assert refused() == f"config.yaml: 1 error\n  {key}: {message}"


def test_a_value_that_is_short_in_the_file_alone() -> None:
    """Sixty times a list that holds the one before twice."""
    content = changed(config(classes=False, small=True), **{f"{UNET}.model_channels": "HERE"})
    lists = "".join(f"l{i}: &l{i} [*l{i - 1}, *l{i - 1}]\n" for i in range(1, 60))
    text = "l0: &l0 [1, 2]\n" + lists + yaml.safe_dump(content).replace("HERE", "*l59")
    Path("config.yaml").write_text(text, encoding="utf-8")
    assert refused().startswith(f"config.yaml: 1 error\n  {UNET}.model_channels: must be a valid integer (got [[[")
    assert len(refused()) < 3000


@pytest.mark.parametrize(
    ("classes", "values", "message"),
    [
        (False, {f"{UNET}.num_res_blocks": 10**6}, "it has 576 tensors, and the config's networks at least 80000160"),
        (
            True,
            {f"{UNET}.transformer_depth": 10**6},
            "it has 576 tensors, and the config's networks at least 320",
        ),
        (
            False,
            {f"{FIRST_STAGE}.params.ddconfig.num_res_blocks": 10**6},
            "it has 576 tensors, and the config's networks at least 48000224",
        ),
        (False, {f"{UNET}.model_channels": 65536}, "sizes differ from the config's: "),
        (False, {f"{UNET}.channel_mult": [64, 64, 64, 64]}, "it has model.diffusion_model.input_"),
        (
            False,
            {f"{FIRST_STAGE}.params.n_embed": 10**6, f"{FIRST_STAGE}.params.embed_dim": 10**6},
            "sizes differ from",
        ),
        (False, {"model.params.timesteps": 10**6}, "its noise schedule is 1000 times from β = 0.0015 to 0.0195"),
    ],
    ids=range(7),
)
@pytest.mark.timeout(60)
def test_networks_that_are_far_larger_than_the_checkpoint(
    latent_diffusion: LatentDiffusion, classes: bool, values: dict[str, Any], message: str
) -> None:
    """Nothing of that size is made: the test would end for lack of time or memory."""
    write(Path(), changed(config(classes, small=True), **values), latent_diffusion.state())
    assert refused().startswith(f"model.ckpt was not made with config.yaml: {message}")


# --- checkpoints -----------------------------------------------------------------------------------------------------

BIAS = "model.diffusion_model.out.2.bias"


def other(bias: torch.Tensor) -> torch.Tensor:
    """What `bias` holds, quantized."""
    return torch.quantize_per_tensor(bias, 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (torch.Tensor.to_sparse, "sparse or nested"),
        (lambda bias: torch.sparse_coo_tensor(size=(10**8, 10**8)), "sparse or nested"),
        (lambda bias: torch.eye(3).to_sparse_csr(), "sparse or nested"),
        (lambda bias: torch.nested.nested_tensor([bias, bias[1:]], layout=torch.jagged), "sparse or nested"),
        (lambda bias: bias.to("meta"), "without values"),
        (lambda bias: torch.empty(10**8, 10**8, device="meta"), "without values"),
        (other, "quantized"),
        (lambda bias: bias.long(), "of torch.int64"),
        (lambda bias: bias + 1j, "of torch.complex64"),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("name", [BIAS, "betas"])
@pytest.mark.filterwarnings("ignore")  # of prototypes
def test_tensors_that_are_no_plain_ones(latent_diffusion: LatentDiffusion, make: Any, what: str, name: str) -> None:
    state = latent_diffusion.state()
    write(Path(), config(classes=False, small=True), {**state, name: make(state[name])})
    why = f"not all are plain tensors of real numbers: {name} is {what}" if name == BIAS else f"betas is {what}"
    assert refused() == f"model.ckpt was not made with config.yaml: {why}. Give the config that came with it"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("ema", [False, True])
def test_weights_that_are_not_finite(latent_diffusion: LatentDiffusion, value: float, ema: bool) -> None:
    weights = latent_diffusion.state_dict()
    weights |= {BIAS: torch.tensor([0.0, value, 0.0])}
    name = "model_ema.diffusion_modelout2bias" if ema else BIAS
    write(
        Path(),
        config(classes=False, small=True),
        latent_diffusion.state(weights) if ema else latent_diffusion.state() | weights,
    )
    rest = ", or take the weights themselves with --no-ema" if ema else ""
    assert refused() == (
        f"model.ckpt: has weights that are not finite: {name}; give another checkpoint of the training{rest}"
    )


def test_numbers_beyond_single_precision(latent_diffusion: LatentDiffusion) -> None:
    state = latent_diffusion.state()
    write(Path(), config(classes=False, small=True), state | {BIAS: torch.full((3,), 1e300, dtype=torch.float64)})
    assert refused().startswith(f"model.ckpt: has weights that are not finite: {BIAS}; ")


def test_one_number_that_is_many_weights() -> None:
    """Views of one number, in which a file of 100 kB has a network of terabytes."""
    values = {f"{UNET}.model_channels": 32_000, f"{UNET}.num_head_channels": 32_000}
    content = changed(config(classes=False, small=True), **values)
    with torch.device("meta"):
        state = LatentDiffusion(content["model"]["params"]).state_dict()
    write(Path(), content, {name: torch.zeros(1).expand(weight.shape) for name, weight in state.items()})
    message = refused()
    assert message.startswith("model.ckpt was not made with config.yaml: the config's networks have ")
    assert f" weights, and the file {Path('model.ckpt').stat().st_size} bytes" in message


def test_an_archive_that_is_compressed(latent_diffusion: LatentDiffusion) -> None:
    torch.save({"state_dict": {"a": torch.zeros(10**6)}}, "whole.ckpt")
    with zipfile.ZipFile("whole.ckpt") as whole, zipfile.ZipFile("model.ckpt", "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in whole.infolist():
            packed.writestr(entry.filename, whole.read(entry))
    assert refused() == (
        "model.ckpt: is not a CompVis checkpoint (it is compressed, which torch.save never does); give a .ckpt file as "
        "they are published"
    )


@pytest.mark.parametrize("name", ["a\nb\x1b[31m", "a" * 10**5, 3], ids=["not printable", "long", "no string"])
def test_names_that_nobody_reads(latent_diffusion: LatentDiffusion, name: Any) -> None:
    write(Path(), config(classes=False, small=True), latent_diffusion.state() | {name: torch.ones(1)})
    message = refused()
    assert message.isprintable()
    assert len(message) < 1000


def test_damaged_anywhere(latent_diffusion: LatentDiffusion) -> None:
    """A byte is another one, at many places of the pickle: one sentence, or a checkpoint that is as good as before."""
    whole = {"state_dict": {"betas": torch.ones(2), "b": torch.nn.Parameter(torch.ones(2))}, "epoch": 3, "best": None}
    for zipped in (True, False):
        torch.save(whole, "whole.ckpt", _use_new_zipfile_serialization=zipped)
        data = bytearray(Path("whole.ckpt").read_bytes())
        for place in range(0, min(len(data), 700), 7):
            changed_data = data.copy()
            changed_data[place] ^= 0x55
            Path("model.ckpt").write_bytes(changed_data)
            with suppress(DistillkitError):
                read_checkpoint(Path("model.ckpt"))


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_full_disk(latent_diffusion: LatentDiffusion) -> None:
    """Of the size of a file, as far as a test may fill a disk."""
    write(Path(), config(classes=False, small=True), latent_diffusion.state())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        message = refused("--output", "deep/out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert message.startswith("deep/out: cannot be written (")
    assert "File too large" in message
    assert message.endswith("; nothing is left of it: make room, or give another folder with --output")


def test_what_a_killed_conversion_left(latent_diffusion: LatentDiffusion) -> None:
    """It goes with the next one, whatever that one's output is."""
    (Path(".old.a1b2c3d4.partial") / "old/unet").mkdir(parents=True)
    (Path(".old.a1b2c3d4.partial") / OWNER).touch()
    write(Path(), config(classes=False, small=True), latent_diffusion.state())
    done = CliRunner().invoke(cli, ["convert", "model.ckpt", "--config", "config.yaml", "--output", "out"])
    assert done.exit_code == 0, done.output
    assert sorted(os.listdir()) == ["config.yaml", "model.ckpt", "out"]


def test_stopped_while_it_writes(latent_diffusion: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path(), config(classes=False, small=True), latent_diffusion.state())
    before = sorted(os.listdir())

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distillkit_compvis.converter.save", stop)
    done = CliRunner().invoke(cli, ["convert", "model.ckpt", "--config", "config.yaml", "--output", "out"])
    assert done.exit_code == 130
    assert sorted(os.listdir()) == before
