"""DeepSpeed's config: what distillkit sets, laid over the user's own JSON. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillkit.errors import DistillkitError
from distillkit.reading import read_json

LEFT_TO = {
    "train_batch_size": "source.batch and the number of processes",
    "train_micro_batch_size_per_gpu": "source.batch",
    "gradient_accumulation_steps": "optimizer.accumulate",
    "gradient_clipping": "optimizer.clip",
    "optimizer": "[optimizer]",
    "scheduler": "[optimizer]",
}
"""Keys of DeepSpeed's that other tables of distillkit's config decide."""

Json = dict[str, Any]


def of_engine(stage: int, precision: str, offload: bool) -> Json:
    """What follows from the engine's options; from `precision` "auto" nothing does."""
    zero: Json = {"stage": stage}
    if stage:
        zero["offload_optimizer"] = {"device": "cpu" if offload else "none"}
    found: Json = {"zero_optimization": zero, "zero_allow_untested_optimizer": True}
    # torch's fused AdamW computes on the host as well.
    found["zero_force_ds_cpu_optimizer"] = False
    if precision != "auto":
        found |= {"bf16": {"enabled": precision == "bf16"}, "fp16": {"enabled": precision == "fp16"}}
    return found


def of_optimizer(accumulate: int, clip: float) -> Json:
    """What follows from `[optimizer]`."""
    # The batch's size is only told in DeepSpeed's own log.
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": clip,
        "steps_per_print": None,
    }


def read(file: Path) -> Json:
    """The user's JSON.

    Raises:
        ValueError: it cannot be read, or is no JSON object; says why.
    """
    try:
        found = read_json(file)
    except DistillkitError as error:
        raise ValueError(str(error)) from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: expected a JSON object, as DeepSpeed's configs are")
    return found


def conflicts(theirs: Json, ours: Json, precision: str) -> Iterator[str]:
    """What the user's JSON says otherwise than distillkit's config, one sentence a key. "auto" never does."""
    if wrong := [key for key in ours if isinstance(ours[key], dict) and not isinstance(theirs.get(key, {}), dict)]:
        for key in wrong:
            yield f"{key} must be a JSON object, as DeepSpeed has it (got {json.dumps(theirs[key])})"
        return
    for key, owner in LEFT_TO.items():
        if theirs.get(key, "auto") != "auto":
            yield f"{key} is {owner}'s to say; leave it out"
    if precision == "auto":
        for key in ("bf16", "fp16"):
            if theirs.get(key, {}).get("enabled", "auto") != "auto":
                yield f'{key}.enabled: engine.precision is "auto", and decides it; name "{key}" there, or leave it out'
    for key, value in _leaves(ours):
        said: Any = theirs
        for part in key.split("."):
            said = said.get(part, "auto") if isinstance(said, Mapping) else "auto"
        if said not in ("auto", value):
            yield f"{key} is {json.dumps(said)}, and distillkit sets {json.dumps(value)}{_by(key)}; make them agree"


def _by(key: str) -> str:
    owners = {
        "zero_optimization.stage": "engine.zero_stage",
        "zero_optimization.offload_optimizer.device": "engine.offload",
        "bf16.enabled": "engine.precision",
        "fp16.enabled": "engine.precision",
    }
    return f" ({owners[key]})" if key in owners else ""


def merge(theirs: Json, ours: Json) -> Json:
    """The user's JSON with ours laid over it."""
    both = dict(theirs)
    for key, value in ours.items():
        below = theirs.get(key)
        both[key] = merge(below, value) if isinstance(value, dict) and isinstance(below, dict) else value
    # "auto" is an integration's to fill in, and where distillkit has nothing to say DeepSpeed's own defaults do.
    return {key: value for key, value in both.items() if value != "auto" and key not in ("optimizer", "scheduler")}


def _leaves(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
