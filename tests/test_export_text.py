"""An export of a whole pipeline leaves out what it cannot carry, and is kept only if stock diffusers loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from diffusers.utils import logging
from distillkit_diffusers.model import DiffusersModel
from helpers.text_pipelines import autoencoder, clip_encoder, clip_tokenizer, ddim, stable_diffusion, unet
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPImageProcessor

from distillkit.errors import DistillkitError
from distillkit.files import replacing
from distillkit.interfaces import Export


def with_safety_checker(folder: Path) -> None:
    """Save a StableDiffusionPipeline with one."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = sizes | {"image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=sizes | {"vocab_size": 54}, vision_config=vision, projection_dim=8)
    diffusers.StableDiffusionPipeline(
        vae=autoencoder(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=unet(),
        scheduler=ddim(),
        safety_checker=StableDiffusionSafetyChecker(config),
        feature_extractor=CLIPImageProcessor(size=16, crop_size=16),
    ).save_pretrained(folder)


def load(folder: Path) -> DiffusersModel:
    model = DiffusersModel(DiffusersModel.Options(path=folder, prompts=("a cat",)))
    assert [*model.check()] == []
    model.load()
    return model


def write(model: Any, folder: Path) -> None:
    """Its export, as a run writes it."""
    settings = {"run": {"name": "tiny", "updates": 3}}
    export = Export(model.spec.path, 2, [2], 1.0, "dsdi", "a teacher", [], settings)
    with replacing(folder) as temporary:
        model.export(model.network, temporary, export)


@pytest.mark.parametrize("weights", ["safetensors", "pickle", "none"])
def test_a_safety_checker(tmp_path: Path, weights: str) -> None:
    """Carried where its weights are safetensors. As a pickle, or not there at all, as in a copy of the hub's."""
    teacher, exported = tmp_path / "teacher", tmp_path / "pipeline"
    with_safety_checker(teacher)
    file = teacher / "safety_checker/model.safetensors"
    if weights == "pickle":
        torch.save(load_file(file), teacher / "safety_checker/pytorch_model.bin")
    if weights != "safetensors":
        file.unlink()
    write(load(teacher), exported)

    card = (exported / "README.md").read_text(encoding="utf-8")
    before, after = (json.loads((folder / "model_index.json").read_text()) for folder in (teacher, exported))
    carried = weights == "safetensors"
    assert (exported / "safety_checker").exists() == carried
    assert ("Without the teacher's `safety_checker`, whose weights are no safetensors." in card) != carried
    changed = {} if carried else {"safety_checker": [None, None], "requires_safety_checker": False}
    assert after == before | changed
    pipe = DiffusionPipeline.from_pretrained(exported)
    assert (pipe.safety_checker is None) != carried
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe("a cat", num_inference_steps=1, height=16, width=16).images) == 1


def test_no_progress_bars_in_a_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """While a model is loaded; the libraries' own switch is what it was."""
    stable_diffusion(tmp_path / "teacher")
    loggers = [logging, transformers.utils.logging]
    shown = [logger.is_progress_bar_enabled() for logger in loggers]
    for logger in loggers:
        logger.enable_progress_bar()
    capfd.readouterr()
    load(tmp_path / "teacher")
    assert "Loading" not in capfd.readouterr().err
    assert all(logger.is_progress_bar_enabled() for logger in loggers)
    for logger, before in zip(loggers, shown, strict=True):
        if not before:
            logger.disable_progress_bar()


def test_a_part_that_no_pipeline_knows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Left out, so that the export loads without a warning."""
    teacher, exported = tmp_path / "teacher", tmp_path / "pipeline"
    stable_diffusion(teacher)
    (teacher / "watermarker").mkdir()
    (teacher / "watermarker/config.json").write_text('{"_class_name": "MyMark"}', encoding="utf-8")
    index = json.loads((teacher / "model_index.json").read_text(encoding="utf-8"))
    (teacher / "model_index.json").write_text(json.dumps(index | {"watermarker": ["my_mark", "MyMark"]}))
    logger = logging.get_logger("diffusers")
    logger.addHandler(caplog.handler)
    write(load(teacher), exported)
    DiffusionPipeline.from_pretrained(exported)
    logger.removeHandler(caplog.handler)
    assert json.loads((exported / "model_index.json").read_text(encoding="utf-8")) == index
    assert not (exported / "watermarker").exists()
    assert "Without the teacher's `watermarker`, which " in (exported / "README.md").read_text(encoding="utf-8")
    assert [record.getMessage() for record in caplog.records if "watermarker" in record.getMessage()] == []


def test_an_export_that_does_not_load_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before stays; and progress bars are what they were."""
    stable_diffusion(tmp_path / "teacher")
    model = load(tmp_path / "teacher")
    write(model, tmp_path / "pipeline")
    before = (tmp_path / "pipeline/model_index.json").read_bytes()
    save = model.network.save_pretrained

    def cut(folder: Path) -> None:
        save(folder)
        file = folder / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:1000])

    monkeypatch.setattr(model.network, "save_pretrained", cut)
    shown = logging.is_progress_bar_enabled()
    with pytest.raises(DistillkitError, match=r"^diffusers cannot load the exported pipeline, which was not kept: "):
        write(model, tmp_path / "pipeline")
    assert logging.is_progress_bar_enabled() == shown
    assert (tmp_path / "pipeline/model_index.json").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["pipeline", "teacher"]
