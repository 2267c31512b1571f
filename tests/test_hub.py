"""Names on the Hugging Face hub: the cache's copy, and what is said where there is neither copy nor network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from diffusers import DDPMPipeline, DDPMScheduler
from distillkit_diffusers.model import DiffusersModel
from helpers.hub_server import serving
from helpers.networks import unet

from distillkit.errors import DistillkitError

NAME = Path("someone/tiny-model")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, which is empty; the working directory as well."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "hub"


def model(path: Path = NAME, **options: Any) -> DiffusersModel:
    return DiffusersModel(DiffusersModel.Options(path=path, **options))


@pytest.mark.parametrize("offline", [True, False])
def test_a_copy_in_the_cache_needs_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    commit = "0" * 40
    (cache / "models--someone--tiny-model/refs").mkdir(parents=True)
    (cache / "models--someone--tiny-model/refs/main").write_text(commit, encoding="utf-8")
    copy = cache / "models--someone--tiny-model/snapshots" / commit
    DDPMPipeline(unet(), DDPMScheduler(clip_sample=False)).save_pretrained(copy)
    made = model()
    assert list(made.check()) == []
    made.load()
    assert (made.spec.sample_shape, made.spec.label) == ((3, 8, 8), "someone/tiny-model")
    (copy / "unet/config.json").write_text('{"_class_name": "UNet1DModel"}', encoding="utf-8")
    supported = "the network is a UNet1DModel; supported: UNet2DModel, GuidedUNet2DModel"
    assert [str(mistake) for mistake in model().check()] == [f"path: {copy}/unet/config.json: {supported}"]


def test_offline_without_a_copy(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert [str(mistake) for mistake in model().check()] == [
        f"path: there is no folder someone/tiny-model here, no copy of the hub's someone/tiny-model in {cache}, and it "
        "could not be fetched (HF_HUB_OFFLINE is set); give a local folder that diffusers saved, or run `hf download "
        "someone/tiny-model` where there is a network"
    ]


def test_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows before it is fetched whether the hub has it."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert list(model().check()) == []
    assert model().can_take_guidance_input() is None
    with pytest.raises(
        DistillkitError, match=r"^there is no folder someone/tiny-model here, no copy of .* could not be fetched \("
    ):
        model().load()


def test_a_folder_that_is_missing_is_no_name(cache: Path) -> None:
    NAME.parent.mkdir()
    for path in (NAME, cache / "tiny-model", Path("tiny-model")):
        assert [str(mistake) for mistake in model(path).check()] == [
            f"path: there is no folder {path}; give a local folder that diffusers saved"
        ]


def use(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def test_one_variant_is_downloaded(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is there, or the one that is chosen; and what the cache lacks of it."""
    repository = tmp_path / "repository"
    DDPMPipeline(unet(), DDPMScheduler(clip_sample=False)).save_pretrained(repository, variant="bf16")
    (repository / "unet/diffusion_pytorch_model.bf16.bin").touch()
    with serving(repository) as (address, asked):
        use(address, monkeypatch)
        assert list(model().check()) == []  # nothing is downloaded to check a config
        assert asked == []
        inventory = model().inventory()
        assert inventory is not None
        assert inventory.parameters == sum(weight.numel() for weight in unet().parameters())
        assert sorted(asked) == [
            "model_index.json",
            "scheduler/scheduler_config.json",
            "unet/config.json",
            "unet/diffusion_pytorch_model.bf16.safetensors",
        ]
        unet().half().save_pretrained(repository / "unet", variant="fp16")
        asked.clear()
        model().load()
        assert asked == []  # the cache's copy is whole
        chosen = model(variant="fp16")
        assert list(chosen.check()) == []
        chosen.load()
        assert asked == ["unet/diffusion_pytorch_model.fp16.safetensors"]


def test_several_variants_on_the_hub(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is downloaded before one is chosen."""
    repository = tmp_path / "repository"
    for variant in ("bf16", "fp16"):
        DDPMPipeline(unet(), DDPMScheduler(clip_sample=False)).save_pretrained(repository, variant=variant)
    with serving(repository) as (address, asked):
        use(address, monkeypatch)
        with pytest.raises(DistillkitError) as caught:
            model().inventory()
    assert asked == []
    assert str(caught.value) == (
        'someone/tiny-model: unet has the weights as the variants "bf16", "fp16", and none without a variant\'s name; '
        "choose one with model.variant (on the command line: --set model.variant=…)"
    )
