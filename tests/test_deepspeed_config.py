"""A user's own DeepSpeed JSON, and what else is wrong before anything starts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ConfigFile
from distillkit_engines import deepspeed_json
from distillkit_engines.deepspeed_engine import DeepSpeedEngine

from distillkit.config import read_config
from distillkit.errors import ConfigError

MINE = {
    "zero_optimization": {"stage": 2, "reduce_bucket_size": 1000},
    "bf16": {"enabled": "auto"},
    "wall_clock_breakdown": True,
}

CONFLICTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "stage": (
        {"zero_optimization": {"stage": 1}},
        "zero_stage = 3",
        "zero_optimization.stage is 1, and distillkit sets 3 (engine.zero_stage); make them agree",
    ),
    "precision": (
        {"bf16": {"enabled": True}},
        'precision = "fp32"',
        "bf16.enabled is true, and distillkit sets false (engine.precision); make them agree",
    ),
    "precision auto": (
        {"fp16": {"enabled": True}},
        'precision = "auto"',
        'fp16.enabled: engine.precision is "auto", and decides it; name "fp16" there, or leave it out',
    ),
    "offload": (
        {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}},
        'offload = "optimizer"',
        'zero_optimization.offload_optimizer.device is "nvme", and distillkit sets "cpu" (engine.offload); make them '
        "agree",
    ),
    "accumulation": (
        {"gradient_accumulation_steps": 4},
        "",
        "gradient_accumulation_steps is optimizer.accumulate's to say; leave it out",
    ),
    "clipping": ({"gradient_clipping": 0.5}, "", "gradient_clipping is optimizer.clip's to say; leave it out"),
    "batch": (
        {"train_micro_batch_size_per_gpu": 8},
        "",
        "train_micro_batch_size_per_gpu is source.batch's to say; leave it out",
    ),
    "optimiser": ({"optimizer": {"type": "AdamW"}}, "", "optimizer is [optimizer]'s to say; leave it out"),
    "scheduler": ({"scheduler": {"type": "WarmupLR"}}, "", "scheduler is [optimizer]'s to say; leave it out"),
}


def mistakes(config: ConfigFile, options: str) -> list[str]:
    config.write(f'preset = "dsdi"\n[engine]\ntype = "deepspeed"\n{options}\n')
    with pytest.raises(ConfigError) as caught:
        read_config(config.path)
    return [str(mistake) for mistake in caught.value.mistakes if mistake.key.startswith("engine")]


@pytest.mark.parametrize("case", CONFLICTS)
def test_conflicts_are_told_by_key(config: ConfigFile, case: str) -> None:
    theirs, options, sentence = CONFLICTS[case]
    file = config.path.with_name("ds.json")
    file.write_text(json.dumps(theirs), encoding="utf-8")
    assert mistakes(config, f'{options}\nconfig = "{file}"') == [f"engine.config: {file}: {sentence}"]


def test_all_conflicts_at_once(config: ConfigFile) -> None:
    file = config.path.with_name("ds.json")
    file.write_text(json.dumps({"gradient_clipping": 0.5, "zero_optimization": {"stage": 0}}), encoding="utf-8")
    assert len(mistakes(config, f'config = "{file}"')) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON (Expecting property name"),
        ("[1]", "expected a JSON object"),
        (None, "there is no such file"),
    ],
)
def test_no_json(config: ConfigFile, text: str | None, message: str) -> None:
    file = config.path.with_name("ds.json")
    if text is not None:
        file.write_text(text, encoding="utf-8")
    [mistake] = mistakes(config, f'config = "{file}"')
    assert mistake.startswith(f"engine.config: {file}: {message}")


def test_offload_without_zero(config: ConfigFile) -> None:
    [mistake] = mistakes(config, 'zero_stage = 0\noffload = "optimizer"')
    assert mistake == "engine.offload: needs a zero_stage of 1 to 3: without ZeRO, nothing is offloaded"


def test_deepspeed_that_is_missing(config: ConfigFile, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "distillkit_engines.deepspeed_engine.find_spec", lambda name: None if name == "deepspeed" else find(name)
    )
    [mistake] = mistakes(config, "")
    assert mistake == (
        "engine.type: 'deepspeed' needs DeepSpeed, which is not installed: pip install 'distillkit[deepspeed]'"
    )


def test_what_does_not_contradict_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps(MINE), encoding="utf-8")
    engine = DeepSpeedEngine(DeepSpeedEngine.Options(config=file, precision="bf16"))
    assert list(engine.check()) == []
    both = deepspeed_json.merge(
        deepspeed_json.read(file), deepspeed_json.of_engine(2, "bf16", True) | deepspeed_json.of_optimizer(3, 0.5)
    )
    assert both["zero_optimization"] == {
        "stage": 2,
        "reduce_bucket_size": 1000,
        "offload_optimizer": {"device": "cpu"},
    }
    assert (both["bf16"], both["fp16"]) == ({"enabled": True}, {"enabled": False})
    assert (both["gradient_accumulation_steps"], both["gradient_clipping"]) == (3, 0.5)
    assert both["wall_clock_breakdown"] is True
    assert set(both) == {
        "zero_optimization", "bf16", "fp16", "gradient_accumulation_steps", "gradient_clipping", "wall_clock_breakdown",
        "train_micro_batch_size_per_gpu", "steps_per_print", "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
    }  # fmt: skip
